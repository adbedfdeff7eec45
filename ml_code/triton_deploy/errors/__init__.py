"""Every error that the library raises on purpose.

The class tells which person has to act, the text what happened and what to do. Adapters turn the
exceptions of their client libraries into these, so no ``requests``, ``botocore`` or gRPC exception
reaches a caller.
"""

from __future__ import annotations

from typing import ClassVar

from .texts import printable


class DeployError(Exception):
    """An error that stops a deploy, with advice.

    Both texts may contain names that other people chose. Characters that would move a terminal's cursor
    or begin a line in a log are escaped.

    Args:
        message: the event, as a sentence.
        hint: advice to the reader, as a sentence.
    """

    kind: ClassVar[str] = "error"
    """Machine-readable name, kept in records and ``--json`` output."""
    exit_code: ClassVar[int] = 1
    """Process exit code of the command line."""
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later with nothing changed by a person."""
    blames_artifact: ClassVar[bool] = False
    """Whether the model itself is at fault; such an artifact is refused until it is forced."""

    def __init__(self, message: str, *, hint: str) -> None:
        self.message = printable(message)
        self.hint = printable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


class InvalidInput(DeployError):
    """An argument is not valid: a bad name, an unknown option, a malformed URL. The caller acts."""

    kind, exit_code = "invalid_input", 3


class Misconfigured(DeployError):
    """A setting is missing or wrong. The operator acts."""

    kind, exit_code = "misconfigured", 3


class NotFound(DeployError):
    """The model, version, deployment or file that was named does not exist. The caller acts."""

    kind, exit_code = "not_found", 3


class AnotherVersion(DeployError):
    """MLflow and the repository have different versions of one number: the model was made anew.

    The caller acts.
    """

    kind, exit_code = "another_version", 3


class Foreign(DeployError):
    """A model or folder that this deployer did not make has the name to deploy to. The caller acts."""

    kind, exit_code = "foreign", 3


class AliasNotFound(NotFound):
    """The model exists, but the alias is not set yet: the only error that a deploy waits out."""

    kind = "alias_not_found"


class AccessDenied(DeployError):
    """Credentials are missing, are wrong, or lack the right for this call. The operator acts."""

    kind, exit_code = "access_denied", 3


class ArtifactRejected(DeployError):
    """The artifact can't become a served version: not ONNX, unsafe, too large, incompatible.

    The model's owner acts.
    """

    kind, exit_code, blames_artifact = "artifact_rejected", 4, True


class Quarantined(DeployError):
    """The artifact failed before, and is refused. The model's owner acts, or forces the deploy."""

    kind, exit_code = "quarantined", 4


class TakenBack(DeployError):
    """The version was bad on live traffic before, and is refused.

    The model's owner acts, or forces the deploy.
    """

    kind, exit_code = "taken_back", 4


class SchemaChanged(DeployError):
    """Inputs or outputs differ from the live version in a way that breaks clients.

    The model's owner acts, or allows it.
    """

    kind, exit_code = "schema_changed", 4


class VerificationFailed(DeployError):
    """The loaded candidate gives wrong, non-finite or late answers. The model's owner acts."""

    kind, exit_code, blames_artifact = "verification_failed", 4, True


class AnsweredLate(VerificationFailed):
    """The candidate gives right answers, but too slowly.

    A busy machine may be the cause, so the artifact is not blamed: deploy again.
    """

    kind, blames_artifact = "answered_late", False


class Damaged(VerificationFailed):
    """The files of a version differ from those that were deployed.

    The model is not blamed. The operator restores the files.
    """

    kind, blames_artifact = "damaged", False


class EndedTriton(DeployError):
    """A Triton ended while it had the candidate.

    The model's owner acts, or an operator who restarted that Triton by hand.

    Args:
        message: see DeployError.
        hint: see DeployError.
        suspect: whether a Triton ended once only, so that it may also have been restarted by hand.
    """

    kind, exit_code, blames_artifact = "ended_triton", 4, True

    def __init__(self, message: str, *, hint: str, suspect: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.suspect = suspect


class AnswersDiffer(VerificationFailed):
    """A shadow's answers differ from the live version's.

    That may be intended, so the artifact is not blamed. The model's owner decides.
    """

    kind, blames_artifact = "answers_differ", False


class CanaryUndecided(DeployError):
    """A canary ended without a verdict, and no person decided in time.

    The model is not blamed. A person acts.
    """

    kind, exit_code = "canary_undecided", 7


class CanaryAborted(DeployError):
    """A person ended the canary. The model is not blamed. Deploy the version again when it is wanted."""

    kind, exit_code = "canary_aborted", 6


class BakeFailed(DeployError):
    """A release was bad on live traffic, and was reverted if another version was live before.

    The model's owner acts.
    """

    kind, exit_code = "bake_failed", 4


class BakeHeld(DeployError):
    """A release had too little traffic for a verdict, and the settings leave the decision to a person.

    That person acts.
    """

    kind, exit_code = "bake_held", 7


class Unavailable(DeployError):
    """MLflow, S3 or Triton did not answer, or not in time. Try again; the operator acts if it lasts."""

    kind, exit_code, retryable = "unavailable", 5, True


class FlipUnanswered(Unavailable):
    """Triton did not answer a request to move the switch: it may have moved it, or may do so later.

    Try again.
    """

    kind = "flip_unanswered"


class Unclassified(Unavailable):
    """Triton gave an unknown error.

    The artifact is not blamed, unless another Triton gives the same one. Try again; the operator looks.
    """

    kind = "unclassified"


class StorageFailed(DeployError):
    """The model repository's file system is full, read-only or not writable by this user.

    The operator acts.
    """

    kind, exit_code = "storage", 5


class TritonsDiffer(DeployError):
    """One Triton refused a candidate that another one took, or gives other answers: that Triton is at fault.

    The operator acts.
    """

    kind, exit_code = "tritons_differ", 5


class NoRoom(DeployError):
    """The Tritons' memory would not hold the candidate beside what they serve. The operator acts."""

    kind, exit_code = "no_room", 5


class LeaseHeld(DeployError):
    """Another deploy of this model is under way. Try again when it has ended."""

    kind, exit_code, retryable = "lease_held", 6, True


class Superseded(DeployError):
    """Another process moved this deployment on, or committed a release since its snapshot.

    Start a new deploy.
    """

    kind, exit_code = "superseded", 6


class IllegalTransition(DeployError):
    """A step was called out of order. The programmer acts."""

    kind, exit_code = "illegal_transition", 1
