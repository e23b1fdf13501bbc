#!/usr/bin/env python3
"""Forwards connections from one port to another, and delivers what it reads after half a round trip: `round_trip.py FROM TO MILLISECONDS`."""

import asyncio
import contextlib
import sys


async def forward(reader, writer, seconds):
    loop, late = asyncio.get_running_loop(), asyncio.Queue()

    async def deliver():
        while True:
            due, data = await late.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                writer.close()
                return
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()

    delivery = asyncio.create_task(deliver())
    data = b"-"
    while data:
        try:
            data = await reader.read(1 << 16)
        except ConnectionError:
            data = b""
        late.put_nowait((loop.time() + seconds, data))
    await delivery


async def main(listen, target, milliseconds):
    async def accept(reader, writer):
        try:
            there = await asyncio.open_connection("127.0.0.1", target)
        except ConnectionError:
            writer.close()
            return
        one_way = milliseconds / 2000
        await asyncio.gather(forward(reader, there[1], one_way), forward(there[0], writer, one_way))

    server = await asyncio.start_server(accept, "127.0.0.1", listen)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
