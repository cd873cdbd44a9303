"""The settings by their old address; `fedquit.settings` has them."""

from fedquit.settings import Key, Scalar, Settings, load_settings_file, settings_of

__all__ = ["Key", "Scalar", "Settings", "load_settings_file", "settings_of"]
