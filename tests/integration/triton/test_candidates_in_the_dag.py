"""Candidates that end the Triton that loads them, deployed by the DAG on a running Airflow: its retries, and a worker that is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from ml_code.triton_deploy.rules.deployment import State
from stack import Stack
from stack.servers import DEPLOY_DAG
from tests.support.airflow.models import ALL_WENT_WELL, failed_at
from tests.support.airflow.runs import AirflowServer
from tests.support.airflow.settings import SETTINGS
from tests.support.faults.figures import record
from tests.support.servers.fleet import LATER, Fleet
from tests.support.servers.hurtful_candidates import good, marked
from tests.support.servers.publisher import Publisher
from tests.support.servers.steady_clients import SteadyClients
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(600)]

ABANDONED_S = 15.0
"""So long nobody looks after a deploy whose worker is gone."""
WATCHED_S = 3.0
SETTLED_S = 20.0


@dataclass
class Site:
    """Two Tritons that a candidate can end, their gateway, and an Airflow whose DAG deploys to them from MLflow."""

    fleet: Fleet
    airflow: AirflowServer
    publisher: Publisher

    def publish(self, moment: str = "") -> int:
        """Register the next version and point the alias at it; return it."""
        # MLflow's numbers are the fleet's: its first version was deployed without MLflow.
        number = max(release.active_version for release in self.fleet.folder.releases.history())
        number = max([number, *(found.version for found in self.fleet.folder.journal.all())]) + 1
        make = partial(marked, moment) if moment else good
        assert self.publisher.publish(self.fleet.model, make(number)) == number
        return number

    def deploy_good(self) -> None:
        """The next deploy works."""
        version = self.publish()
        run = self.airflow.ended(self.airflow.deploy(model=self.fleet.model))
        assert run.tasks == ALL_WENT_WELL
        assert self.fleet.live == version

    def keep(self, row: str, clients: SteadyClients, before: tuple[int, ...], deploy_id: str) -> int:
        """Record the figures; return how often Tritons were started."""
        starts = sum(self.fleet.starts()) - sum(before)
        failure = self.fleet.folder.journal.get(deploy_id).failure
        figures = {
            "requests": clients.requests,
            "failed": len(clients.failed),
            "starts": starts,
            "starts_of_staging": 0,
            "deploys": failure.kind if failure else "committed",
        }
        assert clients.failed == []
        assert starts <= 1
        record("candidates", f"{row}, in the DAG: two", figures)
        return starts


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Fleet(tmp_path_factory.mktemp("fleet"), 2, staging=False) as fleet:
        settings = {
            "TRITON_DEPLOY_REPOSITORY": str(fleet.repository),
            "TRITON_DEPLOY_GRPC_URLS": ",".join(fleet.settings.triton.grpc_urls),
            "TRITON_DEPLOY_LOAD_TIMEOUT_S": "60",
            "TRITON_DEPLOY_SWITCH_TIMEOUT_S": "5",
            "TRITON_DEPLOY_ALIAS_WAIT_S": "0",
        }
        home = tmp_path_factory.mktemp("airflow")
        with Stack(
            home, ["s3", "mlflow", "postgres", "airflow"], environment={**SETTINGS, **settings}
        ) as stack:
            publisher = Publisher(stack.environment)
            publisher.publish(fleet.model, good(1))
            yield Site(fleet, AirflowServer(stack, DEPLOY_DAG), publisher)


def test_a_crash_at_load_is_tried_once_and_rolled_back_at_once(site: Site) -> None:
    """Airflow would try the load three times; each would end a Triton."""
    fleet, airflow, live, before = site.fleet, site.airflow, site.fleet.live, site.fleet.starts()
    site.publish("load")
    with fleet.clients() as clients:
        run_id = airflow.deploy(model=fleet.model, deploy_id="crash")
        run = airflow.ended(run_id, limit_s=120)
        assert fleet.await_serving(live, SETTLED_S) is not None
        assert run.tasks == failed_at("load")
        assert airflow.tries(run_id, "triton_load") == 1
        again = airflow.ended(airflow.deploy(model=fleet.model, deploy_id="again"))
        assert again.tasks["snapshot_current"] == "failed", "the same bytes are refused"
        time.sleep(WATCHED_S)
    site.keep("crash at load", clients, before, "crash")
    (ended,) = (failure for failure in fleet.quarantined().values() if failure["kind"] == "ended_triton")
    assert ended["suspect"]
    site.deploy_good()


def test_a_worker_that_is_gone_in_the_middle_of_a_load_leaves_no_triton_that_ends_again_and_again(
    site: Site,
) -> None:
    """The load ends its Triton after that; nobody rolls back before a reconcile does."""
    fleet, airflow, live, before = site.fleet, site.airflow, site.fleet.live, site.fleet.starts()
    site.publish("load_later")
    with fleet.clients() as clients:
        with fleet.holding():
            run_id = airflow.deploy(model=fleet.model, deploy_id="gone")
            eventually(fleet.somebody_hangs, "it loads", 120)
            # What comes after the task has to wait, as for a worker that is gone.
            airflow.pause()
            airflow.process(run_id, "triton_load").kill()
        time.sleep(ABANDONED_S)
        assert fleet.answers() == [live] * len(fleet.serving)
        fleet.reconcile()
        assert fleet.answers() == [live] * len(fleet.serving)
        fleet.reconcile(LATER)
        assert fleet.folder.journal.get("gone").state is State.ROLLED_BACK
        airflow.pause(False)
        assert airflow.ended(run_id, limit_s=120).state == "failed"
        time.sleep(WATCHED_S)
    site.keep("crash at load, its worker killed", clients, before, "gone")
    site.deploy_good()
