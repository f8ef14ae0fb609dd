"""A scheduler of pytest-xdist whose run goes on after a worker was killed; that of xdist 3.8 waits for ever."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class Restarting(LoadScopeScheduling):
    """The test that a worker dies of fails once, and its other tests go to the others."""

    def remove_node(self, node):
        # The deadly test would come back, to kill the next.
        units = self.assigned_work[node].values()
        dead, deadly = next(((unit, test) for unit in units for test, done in unit.items() if not done), ({}, None))
        dead[deadly] = True
        super().remove_node(node)
        return deadly

    def _pending_of(self, workload):
        # It counts after each test, also in the thousands of units that have ended; and what a dead worker leaves comes
        # back, of which no worker would ever end an empty unit.
        for scope in [scope for scope, unit in workload.items() if all(unit.values())]:
            del workload[scope]
        return super()._pending_of(workload)

    def _reschedule(self, node):
        if node in self.registered_collections:  # one that was started for a dead one may still collect
            super()._reschedule(node)

    def schedule(self):
        super().schedule()
        for node in self.nodes:  # it starts its last test when it knows the next one, or that there is none
            self._reschedule(node)
