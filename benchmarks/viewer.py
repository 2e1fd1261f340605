"""The viewer's server and OpenSlide's DeepZoomGenerator on one file: first tile, tiles a second, memory.

    python benchmarks/viewer.py [--slide FILE] [--tiles 2000] [--clients 8]

Both are served by the same server in a process of their own, and asked for the same tiles by the same clients
on kept connections: 256 px at level 0 and above, at places drawn from one seed, each tile once, so that the
viewer's cache of encoded tiles does not help. Without ``--slide`` it makes one. The last line is one JSON
object. Milliseconds are seen by the client, and depend on what else runs; ``cpu`` are those of the server's
own work.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import io
import json
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.synthetic import he_image, write_tiff
from wsigen.errors import WsigenError
from wsigen.viewer.http import listen

Tile = tuple[int, int, int]


def make_slide(folder: Path, side: int) -> Path:
    """A pyramid of ``side``² pixels at 0.25 µm/px, JPEG tiles of 256 px."""
    picture = he_image(1024, seed=0, mpp=0.25)
    repeated = np.tile(picture, (side // 1024, side // 1024, 1))
    return write_tiff(folder / "slide.tif", repeated, 0.25, levels=4)


def deepzoom_app(path: Path) -> Any:
    """OpenSlide's generator behind the addresses of the viewer, encoding as its own example server does."""
    from openslide import OpenSlide
    from openslide.deepzoom import DeepZoomGenerator
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    zoom = DeepZoomGenerator(OpenSlide(path), tile_size=256, overlap=0)

    def encode(level: int, column: int, row: int) -> bytes:
        out = io.BytesIO()
        zoom.get_tile(level, (column, row)).save(out, "jpeg", quality=75)
        return out.getvalue()

    async def tile(request: Request) -> Response:
        column, row = request.path_params["tile"].partition(".")[0].split("_")
        at = int(request.path_params["level"]), int(column), int(row)
        return Response(await asyncio.to_thread(encode, *at), media_type="image/jpeg")

    return Starlette(routes=[Route("/slides/{name}_files/{level}/{tile}", tile)])


def viewer_app(path: Path) -> Any:
    """The viewer."""
    from wsigen.viewer.catalogue import open_catalogue
    from wsigen.viewer.server import make_app

    return make_app(open_catalogue([path]))


APPS = {"wsigen": viewer_app, "openslide": deepzoom_app}


def serve(which: str, path: Path, sock: socket.socket, pipe: Connection) -> None:
    """Serve until told to stop; send peak memory and seconds of CPU time before and after."""
    import threading

    from wsigen.viewer.http import make_server

    server = make_server(APPS[which](path))
    pipe.send((peak_bytes(), time.process_time()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    pipe.recv()
    pipe.send((peak_bytes(), time.process_time()))
    server.should_exit = True
    thread.join()


def peak_bytes() -> int:
    """The most memory this process has had resident; on Linux without what its parent had."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Client:
    """A connection that is kept."""

    def __init__(self, port: int, name: str) -> None:
        self._http, self._name = http.client.HTTPConnection("127.0.0.1", port), name

    def milliseconds(self, tile: Tile) -> float:
        """How long a tile takes."""
        start, (level, column, row) = time.perf_counter(), tile
        self._http.request("GET", f"/slides/{self._name}_files/{level}/{column}_{row}.jpeg")
        answer = self._http.getresponse()
        data = answer.read()
        if answer.status != 200 or data[:2] != b"\xff\xd8":
            raise RuntimeError(f"tile {tile}: {answer.status} {data[:200]!r}")
        return 1000 * (time.perf_counter() - start)


def draw_tiles(top: int, width: int, height: int, count: int) -> list[Tile]:
    """Tiles of the three finest levels, each once, in random order."""
    tiles = [
        (top - up, column, row)
        for up in range(3)
        for row in range(-(-height // (256 << up)))
        for column in range(-(-width // (256 << up)))
    ]
    order = np.random.default_rng(0).permutation(len(tiles))[:count]
    return [tiles[i] for i in order]


def measure(which: str, path: Path, count: int, clients: int) -> dict[str, float]:
    """Figures of one of the two servers, in a process of its own."""
    from openslide import OpenSlide

    with OpenSlide(path) as slide:
        width, height = slide.dimensions
    top = (max(width, height) - 1).bit_length()
    tiles = draw_tiles(top, width, height, count)
    half = len(tiles) // 2
    context = multiprocessing.get_context("spawn")
    with listen("127.0.0.1", 0) as sock:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(which, path, sock, theirs))
        process.start()
        (before, cpu), port, name = ours.recv(), sock.getsockname()[1], path.name.partition(".")[0]
        first = Client(port, name).milliseconds((top - 3, 0, 0))
        alone = Client(port, name)
        single = [alone.milliseconds(tile) for tile in tiles[:half]]
        rest, start = tiles[half:], time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            parts = [rest[i::clients] for i in range(clients)]
            several = np.concatenate(list(pool.map(lambda part: ask(Client(port, name), part), parts)))
        seconds = time.perf_counter() - start
        ours.send("stop")
        after, cpu_after = ours.recv()
        process.join()
    return {
        "first_tile_ms": round(first, 1),
        "median_ms": round(float(np.median(single)), 2),
        "cpu_ms_per_tile": round(1000 * (cpu_after - cpu) / len(tiles), 2),
        "p99_ms": round(float(np.percentile(single, 99)), 2),
        f"tiles_per_second_{clients}_clients": round(len(rest) / seconds, 1),
        f"p99_ms_{clients}_clients": round(float(np.percentile(several, 99)), 1),
        "memory_mib": round(after / 2**20, 1),
        "memory_of_tiles_mib": round((after - before) / 2**20, 1),
    }


def ask(client: Client, tiles: list[Tile]) -> list[float]:
    """Milliseconds of tiles, one after the other."""
    return [client.milliseconds(tile) for tile in tiles]


def main() -> None:
    """Parse the options, measure both, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--slide", type=Path, help="that OpenSlide opens; one with JPEG tiles is made by default"
    )
    parser.add_argument("--side", type=int, default=8192, help="of the slide that is made, px")
    parser.add_argument("--tiles", type=int, default=2000, help="half of them by one client, half by all")
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.slide or make_slide(Path(folder), options.side)
        try:
            figures = {which: measure(which, path, options.tiles, options.clients) for which in APPS}
        except WsigenError as error:
            parser.error(str(error))
    print(json.dumps({**figures, "tiles": options.tiles, "load": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
