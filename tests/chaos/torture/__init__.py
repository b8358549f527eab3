"""A torture of its own: random services, random faults, and a model that knows what must come of them.

plan       what runs: services, streams and events, drawn from a seed
behaviour  what a handler does with an event
service    the services themselves, run by `penstock run`
model      what must come of it
faults     what is done to it, and when; `injection` does it, with `link` and `fleet`
seen       what came of it; `check` compares
experiment one run of all this; `shrink` finds the smallest list of faults that still breaks it
"""
