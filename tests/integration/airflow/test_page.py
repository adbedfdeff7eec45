"""Airflow's own pages in a real Chromium: a person deploys from the form, mistypes an alias, refuses and approves."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from stack import Stack
from stack.servers import DEPLOY_DAG
from tests.support.airflow.dag_copies import RETRAIN_DAG
from tests.support.airflow.models import ALL_WENT_WELL, Model
from tests.support.airflow.runs import AirflowServer
from tests.support.airflow.tables import SHARP
from tests.support.servers.airflow_browser import AirflowPages
from tests.support.waiting import await_value

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

RUN_LIMIT_S = 400


@pytest.fixture
def pages(chromium: Browser, stack_with_airflow: Stack) -> Iterator[AirflowPages]:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    yield AirflowPages(page, stack_with_airflow)
    page.close()


def test_a_person_deploys_from_the_form_and_is_told_of_an_alias_that_cannot_be(
    pages: AirflowPages, stack_with_airflow: Stack
) -> None:
    model = Model(stack_with_airflow)
    airflow = AirflowServer(stack_with_airflow)
    model.register()
    pages.open_form(DEPLOY_DAG)
    pages.fill(alias="v13", model=model.name)
    pages.submit.click()
    expect(pages.page.get_by_text("Failed to Trigger Dag")).to_be_visible()
    why = pages.page.get_by_text(re.compile("On instance:\\s+'v13'")).last
    why.scroll_into_view_if_needed()
    pages.picture("form-refuses")
    assert airflow.runs_about(model.name) == []

    pages.fill(alias="A")
    # By the keyboard: what tells of the failure lies over the button.
    pages.submit.press("Enter")
    (run_id,) = await_value(lambda: airflow.runs_about(model.name) or None, "the run", RUN_LIMIT_S)
    pages.open_run(DEPLOY_DAG, run_id)
    # It changes by itself until the run has ended: one for each task, and the run's.
    badges = pages.page.get_by_test_id("main-content").get_by_text("Success", exact=True)
    succeeded = list(ALL_WENT_WELL.values()).count("success")
    expect(badges).to_have_count(succeeded + 1, timeout=1000 * RUN_LIMIT_S)
    pages.picture("run")
    assert (airflow.ended(run_id).tasks, model.current is not None) == (ALL_WENT_WELL, True)


# Two trainings: minutes.
@pytest.mark.soak
def test_a_person_refuses_a_promotion_and_approves_the_next(
    pages: AirflowPages, stack_with_airflow: Stack
) -> None:
    airflow = AirflowServer(stack_with_airflow, RETRAIN_DAG)
    airflow.pause(False)
    name = f"m_{uuid.uuid4().hex[:12]}"
    ends = {}
    for answer in ("Reject", "Approve"):
        run_id = airflow.deploy(model=name, options=SHARP, approval=True)
        airflow.question(run_id, "approve_promotion", RUN_LIMIT_S)
        pages.open_run(RETRAIN_DAG, run_id, "/tasks/approve_promotion/required_actions")
        expect(pages.page.get_by_test_id("main-content")).to_contain_text(
            f"of {name} to alias A, and deploy it?"
        )
        pages.picture("approval")
        pages.page.get_by_role("button", name=answer, exact=True).click()
        ends[answer] = airflow.ended(run_id, RUN_LIMIT_S)
        pages.open_run(RETRAIN_DAG, run_id)
        expect(pages.page.get_by_test_id("main-content").get_by_text("Success").first).to_be_visible()
        pages.picture(answer.lower())
    assert [run.state for run in ends.values()] == ["success"] * 2
    assert [run.tasks["promote"] for run in ends.values()] == ["skipped", "success"]
    assert [run.tasks["deployed"] for run in ends.values()] == ["skipped", "success"]
