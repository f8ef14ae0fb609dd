"""A scheduler of pytest-xdist whose run goes on after a worker was killed; that of xdist 3.8 waits for ever."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class Restarting(LoadScopeScheduling):
    """The test that a worker dies of fails once, and its other tests go to the others."""

    def remove_node(self, node):
        # Finished units would come back as empty ones, which no worker ever ends, and the deadly test to kill the next.
        units = self.assigned_work[node].values()
        dead, deadly = next(((unit, test) for unit in units for test, done in unit.items() if not done), ({}, None))
        dead[deadly] = True
        left = {scope: unit for scope, unit in self.assigned_work[node].items() if not all(unit.values())}
        self.assigned_work[node] = left
        super().remove_node(node)
        return deadly

    def schedule(self):
        super().schedule()
        for node in self.nodes:  # it starts its last test when it knows the next one, or that there is none
            self._reschedule(node)
