// BullMQ: `node bullmq.js work`, or `node bullmq.js one|many|steady|slow COUNT`, as bench.peers.produce does.
"use strict";

const fs = require("node:fs");
const { Queue, Worker } = require("bullmq");

const { hostname: host, port } = new URL(process.env.REDIS_URL);
const connection = { host, port: Number(port) };
const AT_ONCE = 500, RATE = 200, BYTES = 200;
const options = { removeOnComplete: true };
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const now = () => (performance.timeOrigin + performance.now()) / 1000;

function payload(kind, at) {
  const job = { kind, at, pad: "" };
  job.pad = "x".repeat(Math.max(0, BYTES - JSON.stringify(job).length));
  return job;
}

async function work() {
  const journal = fs.openSync(process.env.BENCH_JOURNAL, "a");
  const worker = new Worker("jobs", async ({ data }) => {
    if (data.kind === "slow") await pause(5);
    fs.writeSync(journal, data.kind === "noop" ? "." : `${data.kind === "stamp" ? now() - data.at : data.at}\n`);
  }, { connection, concurrency: 100 });
  process.on("SIGTERM", async () => { await worker.close(); process.exit(0); });
}

async function produce(how, count) {
  const queue = new Queue("jobs", { connection, defaultJobOptions: options });
  await queue.waitUntilReady();
  const begun = performance.now();
  for (let at = 0; at < count; at += how === "many" || how === "slow" ? AT_ONCE : 1) {
    if (how === "steady") await pause(Math.max(0, begun + at * 1000 / RATE - performance.now()));
    if (how === "many" || how === "slow") {
      const length = Math.min(AT_ONCE, count - at);
      const data = (n) => (how === "slow" ? payload("slow", at + n) : payload("noop", 0));
      await queue.addBulk(Array.from({ length }, (_, n) => ({ name: "job", data: data(n) })));
    } else {
      await queue.add("job", payload(how === "steady" ? "stamp" : "noop", now()));
    }
  }
  console.log((performance.now() - begun) / 1000);
  await queue.close();
}

const [how, count] = process.argv.slice(2);
(how === "work" ? work() : produce(how, Number(count))).catch((error) => { console.error(error); process.exit(1); });
