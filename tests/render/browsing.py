"""A headless Chromium that is told what to do, for pages that talk to a server."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def browser() -> str:
    """Its path; the test is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium to draw the page: none is installed")
    return found


def pictures(address: str, folder: Path, done: str, steps: tuple[str, ...] = ("",)) -> list[Any]:
    """What the page looks like after each step.

    Arguments:
        address: of the page.
        folder: for the browser's profile.
        done: JavaScript that is true once the page has drawn itself.
        steps: JavaScript to run before each picture.

    Returns:
        (height, width, 3) int pixels, one a step.
    """
    aiohttp = pytest.importorskip("aiohttp")
    process = subprocess.Popen(
        [
            browser(), "--headless=new", "--no-sandbox", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
            "--window-size=640,480", "--remote-debugging-port=0",
            f"--user-data-dir={folder / 'profile'}", address,
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    async def look() -> list[Any]:
        told = folder / "profile" / "DevToolsActivePort"
        for _ in range(300):
            if told.exists() and told.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        port = told.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [p for p in await answer.json() if p["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as line:
                number = 0

                async def ask(method: str, **given: Any) -> Any:
                    nonlocal number
                    number += 1
                    await line.send_json({"id": number, "method": method, "params": given})
                    while True:
                        found = json.loads((await line.receive()).data)
                        if found.get("id") == number:
                            return found["result"]

                for _ in range(200):
                    told = await ask("Runtime.evaluate", expression=f"!!({done})")
                    if told["result"].get("value"):
                        break
                    await asyncio.sleep(0.2)
                out = []
                for step in steps:
                    if step:
                        await ask("Runtime.evaluate", expression=step)
                    await asyncio.sleep(1.5)
                    shot = await ask("Page.captureScreenshot", format="png")
                    image = Image.open(BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
                    out.append(np.array(image).astype(int))
                return out

    try:
        return asyncio.run(asyncio.wait_for(look(), 90))
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
