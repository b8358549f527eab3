"""Least privilege: the Redis users of a mesh, each with the commands and keys that its work needs and no others.

They follow from the topology: what a service reads, publishes, reports on and keeps. Redis asks for the right to read
and to write every key that EVALSHA is handed, also where the script does one of the two. So running scripts is a
selector of its own, and what a script does is checked against what the user may do without one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import msgspec
from redis.exceptions import ResponseError

from penstock.errors import ConfigurationError
from penstock.keys import DEAD_LETTERS, EVENTS, REGISTRY, Keys
from penstock.mesh import alerts, deliveries
from penstock.metrics import windows
from penstock.redis.connection import AsyncRedis
from penstock.topology import Topology

READER, OPERATOR, CLIENT = "penstock-read", "penstock-operate", "penstock-publish"
_GATEWAY = "gateway"
# What an own service does with its own state is its own affair; `reset` before leaves it nothing else.
_DATA_TYPES = ("+@hash", "+@list", "+@set", "+@sortedset", "+@string", "-@dangerous")


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis user: what it may run, and on which keys it may read and write."""

    name: str
    categories: tuple[str, ...]
    commands: frozenset[str]
    readable: frozenset[str]
    writable: frozenset[str]
    selectors: frozenset[str]

    def rules(self, known: Iterable[str] | None = None) -> list[str]:
        """Return the rules of ACL SETUSER, without a password; of the commands only those that the server knows."""
        commands = self.commands if known is None else self.commands.intersection(known)
        scripts = " ".join(["+evalsha", "+eval", *(f"~{key}" for key in sorted(self.writable))])
        return [
            *("reset", "on", "resetchannels"),
            *(f"~{key}" for key in sorted(self.readable & self.writable)),
            *(f"%R~{key}" for key in sorted(self.readable - self.writable)),
            *(f"%W~{key}" for key in sorted(self.writable - self.readable)),
            *self.categories,
            *(f"+{command}" for command in sorted(commands)),
            *([f"({scripts})"] if self.writable else []),
            *(f"({selector})" for selector in sorted(self.selectors)),
        ]


async def known_commands(client: AsyncRedis, wanted: Iterable[User]) -> set[str]:
    """Return those of the users' commands that this server has: older ones lack some, and refuse to hear of them.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    names = sorted({command for user in wanted for command in user.commands})
    told = await client.execute_command("COMMAND INFO", *names)
    return {name for name, info in zip(names, told, strict=True) if info}


async def apply(client: AsyncRedis, wanted: Iterable[User], hashes: Mapping[str, str]) -> list[str]:
    """Set the users as they should be; return the names of those that were otherwise.

    `hashes` are SHA-256 of passwords, by user; without one a user keeps those that it has.

    Raises:
        ConfigurationError: a user has no password, and none is given: nothing is set.
        redis.exceptions.RedisError: Redis is away, or this user may not set others.
    """
    wanted = list(wanted)
    known = await known_commands(client, wanted)
    passwords = {}
    for user in wanted:
        mine = [hashes[user.name]] if user.name in hashes else await _passwords(client, user.name)
        passwords[user.name] = mine
    if without := [name for name, mine in passwords.items() if not mine]:
        variables = ", ".join(f"{name} ({password_variable(name)})" for name in without)
        raise ConfigurationError(
            f"these users have no password: {variables}; set the variables, or have --passwords make them"
        )
    before = await _listed(client)
    for user in wanted:
        mine = [f"#{one}" for one in passwords[user.name]]
        await client.execute_command("ACL", "SETUSER", user.name, *user.rules(known), *mine)
    after = await _listed(client)
    return [user.name for user in wanted if before.get(user.name) != after[user.name]]


def password_variable(user: str) -> str:
    """Return the name of the variable that holds the password of a user."""
    return "REDIS_PASSWORD_" + re.sub(r"\W|_", "_", user).upper()


async def save(client: AsyncRedis) -> bool:
    """Have the server write its users to its ACL file; return whether it has one: else a restart forgets them.

    Raises:
        redis.exceptions.RedisError: Redis is away, or cannot write the file.
    """
    try:
        await client.execute_command("ACL", "SAVE")
    except ResponseError as error:
        if "ACL file" not in str(error) or "not configured" not in str(error):
            raise
        return False
    return True


async def _passwords(client: AsyncRedis, name: str) -> list[str]:
    user = await client.execute_command("ACL", "GETUSER", name)
    return [] if user is None else [_text(one) for one in user[user.index(b"passwords") + 1]]


async def _listed(client: AsyncRedis) -> dict[str, str]:
    lines = map(_text, await client.execute_command("ACL", "LIST"))
    return {line.split(" ", 2)[1]: line for line in lines}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


class _Rights:
    """The rights of one user, as they are gathered."""

    def __init__(self, topology: Topology, keys: Keys) -> None:
        self.topology = topology
        self.keys = keys
        self.commands: set[str] = set()
        self.readable: set[str] = set()
        self.writable: set[str] = set()
        self.selectors: set[str] = set()
        self.categories: tuple[str, ...] = ()
        self.run("ping info time select client|setname client|setinfo evalsha_ro eval_ro")

    def run(self, commands: str) -> None:
        """Allow commands, on whatever keys there are rights to."""
        self.commands.update(commands.split())

    def read(self, commands: str, *names: str) -> None:
        self.run(commands)
        self.readable.update(names)

    def write(self, commands: str, *names: str) -> None:
        self.run(commands)
        self.writable.update(names)

    def use(self, commands: str, *names: str) -> None:
        """Allow to read and write."""
        self.read(commands, *names)
        self.writable.update(names)

    def user(self, name: str) -> User:
        return User(
            name=self.keys.prefix + name,
            categories=self.categories,
            commands=frozenset(self.commands),
            readable=frozenset(self.readable),
            writable=frozenset(self.writable),
            selectors=frozenset(self.selectors),
        )


def users(topology: Topology, keys: Keys) -> list[User]:
    """Return one user for each service, and those of operators who read, of operators who act and of clients.

    Raises:
        ConfigurationError: a service bears the name of another user.
    """
    others = {READER: _reads, OPERATOR: _operates, CLIENT: _submits}
    for name in {"default", *others}.intersection(topology.services):
        raise ConfigurationError(f"streams.yaml: services.{name}: Redis has another user of this name; rename it")
    found = []
    for name in topology.services:
        rights = _Rights(topology, keys)
        _serves(rights, name)
        found.append(rights.user(name))
    for name, allow in others.items():
        rights = _Rights(topology, keys)
        allow(rights)
        found.append(rights.user(name))
    return found


def _serves(rights: _Rights, name: str) -> None:
    topology, keys, spec = rights.topology, rights.keys, rights.topology.services[name]
    rights.write("set", keys.topology)
    rights.use("set pttl", keys.lock(f"memory:{name}"))
    _breaks(rights)
    for stream in topology.streams_of(name):
        _keeps(rights, stream)
    if spec.publishes:
        _publishes(rights, *spec.publishes)
    if spec.consumes:
        _consumes(rights, name)
    if topology.works(name):
        rights.use("hget hset pexpire", keys.job("*"))
        rights.use("hlen hmget hdel", *(keys.cancelled(stream) for stream in spec.consumes))
        rights.write("hset pexpire xadd", keys.progress_of("*"), keys.progress)
        rights.run("scan ttl hvals unlink")  # records give way to what is new
    if spec.run in (None, f"penstock_services.{name}") and name in _SHIPPED:
        _SHIPPED[name](rights)
    else:
        rights.categories = _DATA_TYPES
        rights.run("del exists expire pexpire persist ttl pttl type unlink multi exec discard watch unwatch")
    rights.use("", keys.state(name, "*"))


def _keeps(rights: _Rights, stream: str) -> None:
    """Bounds of a stream, and what is to be published to it later."""
    keys = rights.keys
    rights.use("exists xinfo|groups xpending xlen xrange xtrim", keys.stream(stream))
    rights.use("exists zrange zrangebyscore zrem xadd", keys.scheduled(stream))
    rights.use("set pttl", *(keys.lock(f"{chore}:{stream}") for chore in ("retention", "held")))


def _publishes(rights: _Rights, *streams: str) -> None:
    keys = rights.keys
    rights.write("xadd type", *(keys.stream(stream) for stream in streams))
    rights.write("zadd", *(keys.scheduled(stream) for stream in streams))
    rights.use("get set expire", keys.dedupe("*", "*"))
    rights.run("wait waitaof command|info")  # PENSTOCK_DURABILITY
    rights.use("get set expire hset hdel hkeys hgetall", keys.spool("*"), keys.spools)  # PENSTOCK_SPOOL_DIR


def _breaks(rights: _Rights) -> None:
    """Circuit breakers, and what is told of them."""
    keys = rights.keys
    rights.use("hmget hincrby hset del hgetall hdel pexpire zrem zadd zcard zremrangebyscore", keys.breaker("*"))
    rights.use("sadd smembers", keys.breakers)
    if EVENTS in rights.topology.streams:
        rights.write("xadd", keys.stream(EVENTS))


def _consumes(rights: _Rights, name: str) -> None:
    keys, spec = rights.keys, rights.topology.services[name]
    for group in filter(None, (name, spec.formerly)):
        for stream in spec.consumes:
            # An atomic commit first asks whether it may run its commands, on a stream that it settles.
            rights.use("xreadgroup xgroup|create xgroup|delconsumer xack xclaim xdel xadd", keys.stream(stream))
            rights.use(
                "xlen xrange xrevrange xpending xinfo|groups xinfo|consumers xinfo|stream type",
                keys.retry(stream, group),
            )
            rights.use("exists zrange zrangebyscore zrem zadd zcard", keys.delayed(stream, group))
        rights.use("hget hset hdel hgetall", keys.beats(group), keys.positions(group), keys.quarantine(group))
        rights.use("hgetall hget hsetnx hset expire pexpire pttl del", keys.checkpoint(group, "*"))
    rights.use("set pttl", *(keys.lock(chore) for chore in (f"rescue:{name}", f"sweep:{name}", "retention:dlq")))
    rights.use("xadd xrange xtrim", keys.stream(DEAD_LETTERS))
    rights.use("hkeys hdel", keys.replayed)
    rights.selectors.add(f"+expireat %W~{keys.checkpoint('*', '*')}")  # they live as long as their dead letters
    rights.run("client|list")  # a death is told from a pause by it
    rights.run("hincrby hincrbyfloat hdel zrem zremrangebyscore sadd srem rpush lpush ltrim set incrby del pexpire")
    if spec.formerly:
        rights.run("scan renamenx")


def _sees(rights: _Rights) -> None:
    """Look at the whole mesh: what waits where, who reads it, what is dead."""
    keys = rights.keys
    streams = [keys.stream(stream) for stream in {*rights.topology.streams, DEAD_LETTERS}]
    look = "exists type xlen xrange xrevrange xpending xinfo|groups xinfo|consumers xinfo|stream"
    rights.read(look, *streams, *(f"{stream}:*" for stream in streams))
    rights.read("zcard zrange hmget hexists hgetall", keys.beats("*"), keys.positions("*"), keys.breaker("*"))
    rights.read("smembers", keys.breakers)


def _sees_connections(rights: _Rights) -> None:
    """Know who follows what happens."""
    keys = rights.keys
    rights.read("time zrange hvals", keys.connections(REGISTRY), keys.connections_of(REGISTRY, "*"))


def _finds_jobs(rights: _Rights) -> None:
    keys = rights.keys
    rights.read("hgetall hget", keys.job("*"), keys.progress_of("*"))


def _cancels_jobs(rights: _Rights) -> None:
    topology, keys = rights.topology, rights.keys
    reports = [keys.stream(stream) for stream in filter(None, map(topology.reports, topology.work))]
    own = {keys.stream(DEAD_LETTERS), keys.replayed, keys.job("*"), keys.checkpoint("*", "*"), *reports}
    for stream in topology.work:
        delayed = [keys.delayed(stream, group) for group in topology.workers(stream)]
        rights.use("zrange zrem", keys.scheduled(stream), *delayed)
        rights.use("hset hexists", keys.cancelled(stream))
        retries = (keys.retry(stream, group) for group in topology.workers(stream))
        own |= {keys.stream(stream), keys.scheduled(stream), keys.cancelled(stream), *delayed, *retries}
    rights.use("hget hset pexpire", keys.job("*"))
    rights.write("del", keys.checkpoint("*", "*"))
    rights.write("xadd", *reports)
    rights.selectors.add(" ".join(["+evalsha", "+eval", *(f"~{key}" for key in sorted(own))]))


def _follows_jobs(rights: _Rights) -> None:
    """Be told what becomes of jobs."""
    topology, keys = rights.topology, rights.keys
    reports = filter(None, map(topology.reports, topology.work))
    rights.read("xread xrange xrevrange exists", keys.progress, *map(keys.stream, reports))
    rights.use("get set", keys.epoch)


def _reads_state(rights: _Rights, *services: str) -> None:
    """What shipped services keep to be read by others."""
    commands = "get mget hget hmget hgetall hlen lrange llen zrange exists multi exec"
    rights.read(commands, *(rights.keys.state(name, "*") for name in services))


def _serves_http(rights: _Rights) -> None:
    """The gateway: everything of the mesh is seen through it."""
    topology = rights.topology
    _sees(rights)
    _finds_jobs(rights)
    _follows_jobs(rights)
    _cancels_jobs(rights)
    _publishes(rights, *{*topology.services[_GATEWAY].publishes, *topology.work})
    _reads_state(rights, windows.SERVICE, alerts.SERVICE)
    rights.run("get set")  # the secret of the ids
    rights.use("set getdel", rights.keys.ticket("*"))
    _sees_connections(rights)
    keys = rights.keys
    registry = keys.connections(REGISTRY), keys.connections_of(REGISTRY, "*")
    rights.use("zadd zremrangebyscore zrem pexpire hlen hset hdel hget hexists unlink xadd xread xrevrange", *registry)


def _works(rights: _Rights) -> None:
    rights.categories = _DATA_TYPES  # of jobs of one's own
    rights.run("exists expire ttl type unlink multi exec discard watch unwatch")


def _counts(rights: _Rights) -> None:
    _sees(rights)
    rights.use("set pttl", rights.keys.lock(windows.SERVICE))
    rights.run("get mget set incr lrange llen rpush lpush ltrim zadd zrem zrange zscore")
    rights.run("exists del expire watch unwatch multi exec discard")


def _alerts(rights: _Rights) -> None:
    rights.run("get set del hget hmget hgetall hset hdel hlen lrange lpush ltrim xrange exists")


def _notifies(rights: _Rights) -> None:
    keys = rights.keys
    rights.run("get set del exists expire pexpire pttl hget hmget hgetall hset hdel hexists hkeys hlen")
    rights.run("lindex lrange llen lrem lpush rpush ltrim zadd zrange xrevrange")
    rights.use("get set del pttl", keys.lock("buttons:*"))
    _reads_state(rights, alerts.SERVICE)
    rights.write("hset hdel", keys.state(alerts.SERVICE, alerts.ACKNOWLEDGEMENTS))  # somebody has pressed a button


_SHIPPED: dict[str, Callable[[_Rights], None]] = {
    _GATEWAY: _serves_http,
    "worker": _works,
    windows.SERVICE: _counts,
    alerts.SERVICE: _alerts,
    deliveries.SERVICE: _notifies,
    "containers": lambda _: None,  # its hashes need no more than every service has
}


def _reads(rights: _Rights) -> None:
    """`penstock status`, `job`, `trace`, `metrics`, `dlq ls` and whatever else only looks."""
    keys = rights.keys
    _sees(rights)
    _finds_jobs(rights)
    _follows_jobs(rights)
    _sees_connections(rights)
    _reads_state(rights, windows.SERVICE, alerts.SERVICE, deliveries.SERVICE)
    rights.read("get xread scan zscan", keys.topology)
    # Streams and delays that nobody declares, for `penstock topology check`. What else there is has other types.
    look = "+xlen +zcard +xrange +xpending +xinfo|groups +xinfo|consumers +xinfo|stream +evalsha_ro +eval_ro"
    rights.selectors.add(f"{look} %R~{keys.prefix}*")


def _operates(rights: _Rights) -> None:
    """`penstock emit`, `dlq replay`, `alerts ack`, `breakers open` and whatever else acts."""
    keys, topology = rights.keys, rights.topology
    _reads(rights)
    _breaks(rights)
    _cancels_jobs(rights)
    streams = [stream for stream in topology.streams if stream != DEAD_LETTERS]
    _publishes(rights, *streams)
    rights.write("xadd", *(f"{keys.stream(stream)}:*:retry" for stream in streams))
    rights.use("xdel hset hdel hget", keys.stream(DEAD_LETTERS), keys.replayed, keys.job("*"))
    rights.write("del", keys.checkpoint("*", "*"))
    rights.use("get set", keys.identity)
    for name in (alerts.SERVICE, deliveries.SERVICE):
        rights.use("set del hset hdel lrem", keys.state(name, "*"))


def _submits(rights: _Rights) -> None:
    """Clients: programs that submit jobs and watch what becomes of them."""
    topology, keys = rights.topology, rights.keys
    streams = {*topology.work, *(stream for client in topology.clients.values() for stream in client.streams)}
    _publishes(rights, *streams)
    _follows_jobs(rights)
    for stream in topology.work:
        groups = topology.workers(stream)
        rights.read("xrange xrevrange exists", keys.stream(stream))
        rights.read("xpending xinfo|groups", *(keys.retry(stream, group) for group in groups))
        rights.read("zrange", *(keys.delayed(stream, group) for group in groups))
        rights.read("zrange hexists", keys.scheduled(stream), keys.cancelled(stream))
    rights.read("xrevrange hexists", keys.stream(DEAD_LETTERS), keys.replayed)
    rights.read("get", keys.topology)
    rights.use("get set", keys.identity)
    _finds_jobs(rights)
