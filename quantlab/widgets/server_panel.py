"""A panel for a running server: its state, its memory, its log, what it counts about itself; Refresh and Stop.

The panel never shows the key, and keeps no server alive: it holds the server weakly, and reads only when asked. Where
there is no kernel, the text that was read last stays.
"""

from __future__ import annotations

import html
import weakref

import ipywidgets as ipw

from quantlab.errors import QuantlabError
from quantlab.serve import logs
from quantlab.serve.metrics import metrics
from quantlab.serve.server import Server
from quantlab.serve.state import memory
from quantlab.widgets.view import show

LINES = 6  # of the log


class ServerPanel:
    """State, memory, figures and log as text; two buttons, which the keyboard reaches too."""

    def __init__(self, server: Server) -> None:
        self._server = weakref.ref(server)
        self._text = ipw.HTML()
        refresh = ipw.Button(description="Refresh", tooltip="Read the state, the memory, the log and the figures again")
        stop = ipw.Button(description="Stop", tooltip="End the server with all its processes")
        refresh.on_click(lambda _: self.refresh())
        stop.on_click(lambda _: self.stop())
        self.refresh_button, self.stop_button = refresh, stop
        self.box = ipw.VBox([ipw.HBox([refresh, stop]), self._text])
        self.refresh()

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.rows().items())

    def rows(self) -> dict[str, str]:
        """What is known of the server now."""
        server = self._server()
        if server is None:
            return {"state": "gone: nobody holds this server any more, so it has ended"}
        if not server.alive:
            return {"state": "not running", **_log(server)}
        held = memory(server.id) / 2**20
        found = {"state": f"running, {server.engine.name} with {server.model}", "address": server.url,
                 "memory of its processes": f"{held:,.0f} MiB"}  # fmt: skip
        if server.meaning:
            found["its log says"] = server.meaning
        try:
            counted = metrics(server)
            found |= counted.lines() if counted else {"figures": f"{server.engine.name} counts nothing about itself"}
        except QuantlabError as error:
            found["figures"] = str(error)
        return found | _log(server)

    def refresh(self) -> None:
        """Read everything again."""
        rows = "".join(
            f"<tr><th style='text-align:left;vertical-align:top;padding-right:1em'>{html.escape(name)}</th>"
            f"<td><pre style='margin:0;white-space:pre-wrap'>{html.escape(value)}</pre></td></tr>"
            for name, value in self.rows().items()
        )
        self._text.value = f"<table role='status' aria-label='The server'>{rows}</table>"

    def stop(self) -> None:
        """End the server, and say so."""
        server = self._server()
        if server is not None:
            server.stop()
        self.stop_button.disabled = True
        self.refresh()

    def _ipython_display_(self) -> None:
        show(self.box, repr(self))


def _log(server: Server) -> dict[str, str]:
    """The last lines of the log; the key is not in it, and if an engine wrote it there it is not shown."""
    text = "\n".join([line for line in logs.tail(server.log) if line][-LINES:]).replace(server.key, "(the key)")
    return {"log": text} if text else {}


def server_panel(server: Server) -> ServerPanel:
    """The panel of a server that was started: `server_panel(Server("tiny").start())`."""
    return ServerPanel(server)
