"""Live streams: what happens, told as it happens to browsers and other programs, whatever serves them.

The gateway serves them with aiohttp, `penstock.asgi` in an application of one's own; what they say is here.
"""
