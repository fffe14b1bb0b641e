"""What a user can cause. Every message says what is wrong, where, and what to do."""


class SePPOError(Exception):
    """Base of every error the product raises on purpose.

    ComfyUI's page shows a class's module before the message, and a pack's module is a path of the disk; classes
    that are said to be built in are shown by their name alone.
    """

    __module__ = "builtins"

    def __init_subclass__(cls) -> None:
        cls.__module__ = "builtins"


class ConfigError(SePPOError):
    """A setting is unknown, out of range or contradicts another."""


class DatasetError(SePPOError):
    """Winning images, captions, latents or conditioning cannot be used."""


class UnsupportedModelError(SePPOError):
    """The network, its prediction type or its conditioning is outside what is handled."""


class CheckpointError(SePPOError):
    """A run directory cannot be written, read or continued."""


class NonFiniteLossError(SePPOError):
    """Loss or gradient became NaN or infinite; the optimizer step was not applied."""


class ShortageError(SePPOError):
    """A device has not enough memory; the message names what was measured, and settings that need less."""


class MissingPackageError(SePPOError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class ScorerError(SePPOError):
    """A scorer's weights are missing or are not what it needs; the message says what to get."""
