"""A real browser for tests: one Chromium, its pages, and what a person does with them."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Self

from tests.browser.install import Clients, carries_chromium
from tests.browser.node_script import Event, NodeScript

LAUNCH_DEADLINE_S = 60.0
# The Chromium of the package has no sandbox of its own and no zygote; nothing but our own pages is opened in it.
# Names that end in `.test` mean this machine, so that a page can come from a foreign origin.
ARGUMENTS = (
    "--no-sandbox",
    "--no-zygote",
    "--disable-gpu",
    "--font-render-hinting=none",
    "--host-resolver-rules=MAP *.test localhost",
)
INSTALLED = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
INSTALLED_ON_A_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><dir>/usr/share/fonts</dir><cachedir>{cache}</cachedir></fontconfig>
"""


class NoBrowser(Exception):
    """There is no Chromium or Chrome for this platform."""

    def __init__(self) -> None:
        super().__init__(
            f"no browser: there is no packaged Chromium for {platform.system()} on {platform.machine()} and no Chromium "
            "or Chrome on the path; install one, or name its file in CHROME"
        )


def find_browser(clients: Clients) -> Path:
    """Return the browser's file: of CHROME, else the packaged one, else an installed one; or raise NoBrowser."""
    if named := os.environ.get("CHROME"):
        found = shutil.which(named)
        assert found, f"CHROME names {named}, which cannot be run"
        return Path(found)
    if carries_chromium():
        packaged = clients.unpacked / "chromium"
        assert packaged.is_file(), f"{packaged} is missing; delete .npm and run this again"
        return packaged
    for name in (*INSTALLED, str(INSTALLED_ON_A_MAC)):
        if found := shutil.which(name):
            return Path(found)
    raise NoBrowser


def browser_environment(clients: Clients, program: Path, folder: Path) -> dict[str, str]:
    """Return what Chromium needs so that it writes into `folder` only and finds its fonts and libraries."""
    given = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    if program.parent != clients.unpacked:
        return given
    fonts = folder / "fonts.conf"
    fonts.write_text(FONTS.format(fonts=clients.unpacked / "fonts", cache=folder / "fonts-cache"))
    given["FONTCONFIG_FILE"] = str(fonts)
    if subprocess.run([program, "--version"], capture_output=True).returncode:
        given["LD_LIBRARY_PATH"] = str(clients.unpacked / "al2023/lib")
    return given


class Page:
    """One page with a storage of its own."""

    def __init__(self, script: NodeScript, number: int) -> None:
        self._script = script
        self._number = number

    async def run(self, method: str, *arguments: object) -> Any:
        """Call any method of Playwright's Page; a dotted name reaches further (`context.setOffline`)."""
        return await self._script.call(
            "run", self._number, method, *arguments, deadline_s=LAUNCH_DEADLINE_S
        )

    async def goto(self, url: str) -> int:
        """Open a page; return the status of its answer."""
        status: int = await self._script.call(
            "goto", self._number, url, deadline_s=LAUNCH_DEADLINE_S
        )
        return status

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return await self.run("evaluate", expression)

    async def wait_until(self, expression: str, *, deadline_s: float = 10.0) -> None:
        """Wait until a JavaScript expression is true in the page."""
        await self._script.call(
            "waitUntil",
            self._number,
            expression,
            deadline_s * 1000,
            deadline_s=deadline_s + LAUNCH_DEADLINE_S,
        )

    async def wait_for(self, selector: str, *, deadline_s: float = 10.0) -> None:
        """Wait until an element is there and can be seen."""
        await self.run("waitForSelector", selector, {"timeout": deadline_s * 1000})

    async def wait_for_text(self, selector: str, text: str, *, deadline_s: float = 10.0) -> None:
        """Wait until an element's text, trimmed, is exactly this."""
        shown = f"document.querySelector({json.dumps(selector)})?.textContent.trim()"
        await self.wait_until(f"{shown} === {json.dumps(text)}", deadline_s=deadline_s)

    async def text(self, selector: str) -> str:
        """Return an element's text as it is shown."""
        shown: str = await self.run("innerText", selector)
        return shown

    async def click(self, selector: str) -> None:
        """Click an element once it can be clicked."""
        await self.run("click", selector, {"timeout": 10_000})

    async def fill(self, selector: str, value: str) -> None:
        """Replace the text of a field."""
        await self.run("fill", selector, value)

    async def press(self, keys: str) -> None:
        """Press a key or a combination, as `Tab` or `Control+A`."""
        await self.run("keyboard.press", keys)

    async def screenshot(self, path: Path, *, is_full_page: bool = True) -> None:
        """Write a picture of the page."""
        await self.run("screenshot", {"path": str(path), "fullPage": is_full_page})

    async def set_size(self, width: int, height: int) -> None:
        """Make the window this large, in CSS pixels."""
        await self.run("setViewportSize", {"width": width, "height": height})

    async def prefer(self, color_scheme: str) -> None:
        """Prefer `dark` or `light`, as the user's system says."""
        await self.run("emulateMedia", {"colorScheme": color_scheme})

    async def set_offline(self, value: bool) -> None:
        """Take the network away, or give it back. Open WebSockets may live on, as in a real browser."""
        await self.run("context.setOffline", value)

    async def accessibility_violations(self) -> list[dict[str, Any]]:
        """Return what axe-core finds wrong: rule, help and the elements."""
        found: list[dict[str, Any]] = await self._script.call(
            "axe", self._number, deadline_s=LAUNCH_DEADLINE_S
        )
        return found

    def told(self, *kinds: str) -> list[str]:
        """Return what was seen: of the console (`log`, `error`, …), `pageerror`, `requestfailed`, and of WebSockets
        `sent`, `received`, `closed`."""
        mine = (one for one in self._script.events if one["page"] == self._number)
        return [one["text"] for one in mine if not kinds or one["kind"] in kinds]

    async def wait_told(self, kind: str, words: str = "") -> Event:
        """Wait until something of this kind, as in `told`, was seen with these words in it."""
        return await self._script.wait(
            lambda event: (
                (event["page"], event["kind"]) == (self._number, kind) and words in event["text"]
            )
        )

    async def close(self) -> None:
        """Close the page and forget its storage."""
        await self._script.call("closePage", self._number)


class Browser:
    """A running Chromium."""

    def __init__(self, script: NodeScript, version: str) -> None:
        self.version = version
        self._script = script
        self._numbers = count(1)

    @classmethod
    async def start(cls, clients: Clients, folder: Path) -> Self:
        """Start it without a window; it writes into `folder` and temporary files only."""
        program = find_browser(clients)
        environment = browser_environment(clients, program, folder)
        script = await NodeScript.start(clients, "drive_browser.cjs", environment=environment)
        version = await script.call("launch", str(program), ARGUMENTS, deadline_s=LAUNCH_DEADLINE_S)
        return cls(script, version)

    async def open_page(
        self,
        *,
        width: int = 1280,
        height: int = 800,
        color_scheme: str = "light",
        storage: Mapping[str, str] | None = None,
    ) -> Page:
        """Open an empty page; `storage` is in localStorage of whatever is opened in it."""
        number = next(self._numbers)
        options = {"viewport": {"width": width, "height": height}, "colorScheme": color_scheme}
        await self._script.call(
            "newPage", number, options, dict(storage or {}), deadline_s=LAUNCH_DEADLINE_S
        )
        return Page(self._script, number)

    async def stop(self) -> None:
        """Close it."""
        await self._script.stop()
