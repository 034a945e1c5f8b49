"""Jupyter's half that is not the kernel: runs cells as it is told, one JSON command a line on its standard input.

A program of its own, since a client of Jupyter leaves threads and sockets behind in the process that has it. It says
everything through the FIFO of the test. When the input ends, it kills its kernel and leaves.
"""

from __future__ import annotations

import asyncio
import json
import sys

from nbclient import NotebookClient
from nbformat import NotebookNode, v4

from support.rendezvous import report


class FrontEnd:
    """A notebook in the making: its commands are the methods whose name starts with ``do_``."""

    def __init__(self, reports: str, client: NotebookClient) -> None:
        self.reports = reports
        self.client = client
        self.running: set[asyncio.Task[None]] = set()

    async def do_run(self, label: str, source: str) -> None:
        """Start a cell; what came of it is reported when it ends."""
        self.client.nb.cells.append(v4.new_code_cell(source))
        task = asyncio.create_task(self._run(label, len(self.client.nb.cells) - 1))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def do_interrupt(self) -> None:
        await self.client.km.interrupt_kernel()

    async def do_shutdown(self) -> None:
        """Ask the kernel to leave; if it does not, SIGTERM, and then SIGKILL."""
        await self.client.km.shutdown_kernel()
        report(self.reports, "shutdown")

    async def serve(self) -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            await getattr(self, f"do_{command.pop('do')}")(**command)

    async def _run(self, label: str, index: int) -> None:
        cell = await self.client.async_execute_cell(self.client.nb.cells[index], index)
        report(self.reports, label, json.dumps(_describe(cell.outputs)))


def _describe(outputs: list[NotebookNode]) -> dict[str, str]:
    described = {"printed": "".join(output.text for output in outputs if output.get("name") == "stdout")}
    for output in outputs:
        if output.output_type == "error":
            described |= {"error": output.ename, "message": output.evalue[:1000]}
    return described


async def main(reports: str, directory: str) -> None:
    client = NotebookClient(
        v4.new_notebook(),
        kernel_name="python3",
        allow_errors=True,  # a cell that raises is an outcome like others
        shutdown_kernel="immediate",
        timeout=50,
    )
    async with client.async_setup_kernel(cwd=directory):
        report(reports, "kernel", str(client.km.provisioner.pid))
        await FrontEnd(reports, client).serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
