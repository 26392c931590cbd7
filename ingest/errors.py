"""Every error a user can meet, with the remedy in its message.

    TetherError                     exit code 1
    ├── UsageError                  exit code 2: the request itself cannot be carried out
    │   ├── SettingsError           a setting is unknown or has the wrong type
    │   ├── QuestionError           the question is empty or far too long
    │   └── UnknownCollection       no collection of that name
    ├── SourceError                 one file cannot be ingested; the others go on
    │   └── EmptySource             it can be read, and holds no text
    ├── StoreError                  the store cannot be read or written
    │   ├── DamagedStore            SQLite itself is damaged
    │   ├── EncoderMismatch         the collection was built with another encoder
    │   └── StoreBusy               another process is writing this collection
    ├── WeightsError                weights are missing, altered or cannot be written
    ├── GeneratorError              a generator failed or could not be reached
    ├── ServiceBusy                 too many questions wait, or the server is stopping
    └── TrainingError               training cannot start, or had to stop

The tree stands here, in the leftmost folder, because imports point left and all folders raise it.
A message is one line: what is wrong, then what to do.
"""


class TetherError(Exception):
    """Base of all errors shown to users as one line; `exit_code` is the process status."""

    exit_code = 1


class UsageError(TetherError):
    """The request itself cannot be carried out."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown or its value has the wrong type."""


class QuestionError(UsageError):
    """The question is empty or too long to be a question."""


class UnknownCollection(UsageError):
    """No collection has the name that was asked for."""


class SourceError(TetherError):
    """One source cannot be ingested; the pipeline reports it and goes on."""


class EmptySource(SourceError):
    """A source can be read and holds no text, so nothing that it held before stands in it."""


class StoreError(TetherError):
    """A collection cannot be read or written."""


class DamagedStore(StoreError):
    """The SQLite database of a collection is damaged."""


class EncoderMismatch(StoreError):
    """A collection was built with an encoder other than the one in use."""


class StoreBusy(StoreError):
    """Another process holds the write lock of a collection."""


class WeightsError(TetherError):
    """Model weights are missing, fail their hash, or cannot be written."""


class GeneratorError(TetherError):
    """A generator backend failed or could not be reached."""


class ServiceBusy(TetherError):
    """The server takes no more questions at the moment."""


class TrainingError(TetherError):
    """Training cannot start or go on: its data, options, checkpoint, disk or loss forbid it."""
