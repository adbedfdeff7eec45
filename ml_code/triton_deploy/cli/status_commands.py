"""The commands that show a model's state and change nothing: ``status`` and ``history``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

from ..deploy.deployer import Deployer
from ..report.known_models import require_known
from ..repository import ModelFolder, models_in
from ..repository.verdicts import in_lines
from ..rules.canary import step_of
from ..rules.deployment import Deployment, State
from ..rules.names import check_model
from ..rules.release import Release
from ..rules.shapes import told
from ..settings import Settings
from .command import Commands, add_model, settings_to_look
from .exit_codes import ExitCode
from .told import Cell, Fact, Section, Table, Told, Tone

if TYPE_CHECKING:
    from ..upkeep.status import ModelStatus


def add_status(commands: Commands) -> None:
    """Add ``status``."""
    command = commands.add(
        "status",
        status,
        "show the live version, the version on each Triton, the deploy under way and the quarantine",
        settings_to_look,
        examples=("status", "status best_model", "status best_model --deploy-id ci-42"),
    )
    command.add_argument("model", metavar="MODEL", nargs="?", help="one model (default: all)")
    command.add_argument(
        "--deploy-id", help="show one deployment of the model; the exit code says how the deployment ended"
    )


def status(options: argparse.Namespace, settings: Settings) -> Told:
    """Show the live version of each model, and the versions that the Tritons serve."""
    from ..upkeep.status import statuses

    if options.deploy_id:
        return _deployment_status(options, settings)
    models = [check_model(options.model)] if options.model else models_in(settings.repository_root)
    states = list(statuses(settings, models))
    if options.model and not any(state.notices or state.problems for state in states):
        require_known(settings, options.model)
    agree = all(state.agrees for state in states)
    return Told.in_sections(
        [state.to_dict() for state in states],
        [_section(state) for state in states] or [Section("Nothing was deployed to this repository yet.")],
        ExitCode.DONE if agree else ExitCode.DISAGREES,
    )


def _section(state: ModelStatus) -> Section:
    live = state.live
    if live:
        unverified = f", {live.reason}" if live.unverified else ""
        return Section(
            f"{state.model}: version {live.active_version}, generation {live.generation}, since {live.updated_at_utc}{unverified}",
            _facts(state),
        )
    none = "no version is known to be live" if state.problems else "nothing live"
    return Section(f"{state.model}: {none}", _facts(state))


def _facts(state: ModelStatus) -> Iterator[Fact]:
    live = state.live
    for url, version in state.serving.items():
        serves = f"serves version {version}" if isinstance(version, int) else version or "does not serve it"
        right = live is not None and version == live.active_version
        yield Fact(f"Triton {url}", serves, Tone.GOOD if right else Tone.BAD if live else Tone.PLAIN)
    if state.unfinished:
        yield Fact("under way", _under_way(state.unfinished), Tone.CAREFUL)
    if live and live.reason and not live.unverified:
        yield Fact("reason", live.reason)
    if state.verdict:
        yield Fact("without a verdict" if state.without_verdict else "judged", state.verdict)
    if state.shapes:
        yield Fact("", state.shapes)
    for version, why in state.taken_back.items():
        yield Fact("taken back", f"version {version}, not deployed again without --force: {why}")
    for name, failure in state.quarantined.items():
        kept = "quarantined" if failure.get("blames_artifact", True) else "put aside, and not refused"
        yield Fact(kept, f"{name}: {failure.get('step')}: {failure.get('error')}")
    for problem in state.problems:
        yield Fact("problem", problem, Tone.BAD)
    for notice in state.notices:
        yield Fact("notice", notice.text, Tone.CAREFUL)


def _under_way(record: Deployment) -> str:
    """Return the deployment's id, its version and the step that its candidate has reached."""
    text = f"{record.deploy_id}, version {record.version}, {record.state}"
    canary = record.canary
    if canary and canary.step:
        text += f", {step_of(canary)} since {canary.since_utc}"
    if canary and canary.held_utc:
        text += f", waits since {canary.held_utc}: {canary.held_for}"
    return text


def _deployment_status(options: argparse.Namespace, settings: Settings) -> Told:
    if not options.model:
        options.usage_error("--deploy-id needs the model's name")
    record = ModelFolder.at(settings.repository_root, options.model).journal.get(options.deploy_id)
    text = f"Deployment {record.deploy_id} of {record.model} version {record.version}: {record.state}."
    if record.shapes:
        text += f" It has {told(record.shapes)}."
    if record.failure:
        text += f" {record.failure.step} failed: {record.failure.error}"
    ended = ExitCode.DONE if record.finished else ExitCode.UNFINISHED
    exit_code = ExitCode.ROLLED_BACK if record.state is State.ROLLED_BACK else ended
    return Told.of(record, text, Deployer(settings).what_serves(options.model), exit_code)


def add_history(commands: Commands) -> None:
    """Add ``history``."""
    command = commands.add(
        "history",
        history,
        "show the releases of a model, newest first",
        settings_to_look,
        examples=("history best_model", "history best_model --limit 5", "history best_model --json"),
    )
    add_model(command)
    command.add_argument("--limit", type=int, default=20, help="number of releases (default: %(default)s)")


def history(options: argparse.Namespace, settings: Settings) -> Told:
    """Show releases, newest first.

    A record that can't be read is an error after the lines of newer releases.
    """
    require_known(settings, options.model)
    folder = ModelFolder.at(settings.repository_root, options.model)
    releases = islice(folder.releases.history(), max(0, options.limit))
    values = (
        asdict(release) | dict(zip(("verdict", "shapes"), in_lines(folder, release), strict=True))
        for release in releases
    )
    return Told(values, _history_lines(folder, releases), drawing=[_history_table(folder, releases)])


def _history_lines(folder: ModelFolder, releases: Iterable[Release]) -> Iterator[str]:
    release = None
    for release in releases:
        yield (
            f"{release.generation:>6}  version {release.active_version:<5} {release.updated_at_utc}  alias {release.alias}  "
            f"by {release.actor}  run {release.run_id or '-'}  deployment {release.deploy_id}  {release.reason}".rstrip()
            + "".join(f"  [{note}]" for note in in_lines(folder, release) if note)
        )
    if release is None:
        yield _never(folder)


def _never(folder: ModelFolder) -> str:
    return f"{folder.model} was never released."


def _history_table(folder: ModelFolder, releases: Iterable[Release]) -> Table:
    def rows() -> Iterator[tuple[Cell, ...]]:
        newest = True
        for release in releases:
            notes = filter(None, [release.reason, *in_lines(folder, release)])
            yield (
                (str(release.generation), Tone.FAINT),
                (str(release.active_version), Tone.GOOD if newest else Tone.PLAIN),
                (release.updated_at_utc[:16].replace("T", " "), Tone.PLAIN),
                (release.alias, Tone.PLAIN),
                ("; ".join([f"by {_in_short(release.actor)}", *notes]), Tone.PLAIN),
            )
            newest = False

    return Table(
        ("#", "version", "since (UTC)", "alias", "who and why"),
        rows(),
        after="'--json' has the runs and deploy ids.",
        without=_never(folder),
    )


def _in_short(actor: str) -> str:
    """Return an actor without the random end of the id of an Airflow run."""
    kind, _, run = actor.partition(":")
    return f"{kind} ({run.split('__')[0]})" if run else kind
