"""Every error that the library raises on purpose.

The class says who has to act, the text says what happened and what to do. Adapters turn what their client library raises
into one of these, so no ``requests``, ``botocore`` or gRPC exception reaches a caller.
"""

from __future__ import annotations

from typing import ClassVar

from .texts import printable


class DeployError(Exception):
    """Something that stops a deploy, with advice.

    Args:
        message: what happened, in a sentence.
        hint: what the reader can do about it.

    Names that others chose come in both. What would move a terminal's cursor or begin a line in a log is escaped.
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
    """An argument that can't be meant: a bad name, an unknown option, a malformed URL. The caller acts."""

    kind, exit_code = "invalid_input", 3


class Misconfigured(DeployError):
    """A setting is missing or can't be right. The operator acts."""

    kind, exit_code = "misconfigured", 3


class NotFound(DeployError):
    """The model, version, deployment or file that was named does not exist. The caller acts."""

    kind, exit_code = "not_found", 3


class AnotherVersion(DeployError):
    """MLflow's version of a number is another one than the repository's: the model was deleted and made anew. The caller acts."""

    kind, exit_code = "another_version", 3


class Foreign(DeployError):
    """Somebody else's model or folder has the name that is to be deployed to. The caller acts."""

    kind, exit_code = "foreign", 3


class AliasNotFound(NotFound):
    """The model exists and the alias is not set (yet): the only error that a deploy waits for."""

    kind = "alias_not_found"


class AccessDenied(DeployError):
    """Credentials are missing, wrong, or not allowed to do this. The operator acts."""

    kind, exit_code = "access_denied", 3


class ArtifactRejected(DeployError):
    """The artifact can't become a served version: not ONNX, unsafe, too large, incompatible. The model's owner acts."""

    kind, exit_code, blames_artifact = "artifact_rejected", 4, True


class Quarantined(DeployError):
    """The artifact failed before and is refused. The model's owner acts, or forces it."""

    kind, exit_code = "quarantined", 4


class TakenBack(DeployError):
    """The version was bad on live traffic before, and is refused. The model's owner acts, or forces it."""

    kind, exit_code = "taken_back", 4


class SchemaChanged(DeployError):
    """Inputs or outputs differ from the live version in a way that breaks clients. The model's owner acts, or allows it."""

    kind, exit_code = "schema_changed", 4


class VerificationFailed(DeployError):
    """The candidate is loaded and gives wrong, non-finite or late answers. The model's owner acts."""

    kind, exit_code, blames_artifact = "verification_failed", 4, True


class AnsweredLate(VerificationFailed):
    """The candidate answers rightly and too slowly. A busy machine looks the same, so nobody is blamed: deploy again, or look."""

    kind, blames_artifact = "answered_late", False


class Damaged(VerificationFailed):
    """The files of a version are not those that were deployed. Nothing is known against the model; the operator restores them."""

    kind, blames_artifact = "damaged", False


class EndedTriton(DeployError):
    """A Triton ended while it had the candidate. The model's owner acts, or an operator who restarted that Triton by hand.

    Args:
        message: see DeployError.
        hint: see DeployError.
        suspect: whether it was seen once only, so that a restart by hand can't be told from it.
    """

    kind, exit_code, blames_artifact = "ended_triton", 4, True

    def __init__(self, message: str, *, hint: str, suspect: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.suspect = suspect


class AnswersDiffer(VerificationFailed):
    """A shadow's answers are not the live version's. They may be meant to differ, so nobody is blamed: the model's owner says so, or acts."""

    kind, blames_artifact = "answers_differ", False


class CanaryUndecided(DeployError):
    """Nobody could judge a candidate before its commit, and no person decided in time. Nothing is known against the model. A person acts."""

    kind, exit_code = "canary_undecided", 7


class CanaryAborted(DeployError):
    """A person ended the canary. Nothing is known against the model. Deploy again when you want it again."""

    kind, exit_code = "canary_aborted", 6


class BakeFailed(DeployError):
    """A release was bad on live traffic, and was taken back if something was live before. The model's owner acts."""

    kind, exit_code = "bake_failed", 4


class BakeHeld(DeployError):
    """A release saw too little traffic to be judged, and whoever set it up wants to decide. A person acts."""

    kind, exit_code = "bake_held", 7


class Unavailable(DeployError):
    """MLflow, S3 or Triton did not answer, or not in time. Try again; the operator acts if it lasts."""

    kind, exit_code, retryable = "unavailable", 5, True


class FlipUnanswered(Unavailable):
    """Triton was told to move the switch and did not answer: it may have done it, or may do it later. Try again."""

    kind = "flip_unanswered"


class Unclassified(Unavailable):
    """What Triton said is not known. Nobody is blamed, unless another Triton says the same. Try again; the operator looks."""

    kind = "unclassified"


class StorageFailed(DeployError):
    """The model repository's file system is full, read-only or not writable by this user. The operator acts."""

    kind, exit_code = "storage", 5


class TritonsDiffer(DeployError):
    """One Triton refused what another one took, or answers otherwise: the Triton is at fault. The operator acts."""

    kind, exit_code = "tritons_differ", 5


class NoRoom(DeployError):
    """The Tritons' memory would not hold the candidate beside what they serve. The operator acts."""

    kind, exit_code = "no_room", 5


class LeaseHeld(DeployError):
    """Another deploy of this model is under way. Try again when it has ended."""

    kind, exit_code, retryable = "lease_held", 6, True


class Superseded(DeployError):
    """Somebody else moved this deployment, or committed a release since its snapshot. Start a new deploy."""

    kind, exit_code = "superseded", 6


class IllegalTransition(DeployError):
    """A step was called out of order. The programmer acts."""

    kind, exit_code = "illegal_transition", 1
