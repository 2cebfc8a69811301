"""Run the LiveKit bridge: `exeunt-livekit-bridge` or `python -m exeunt_livekit_bridge`."""

from typing import NoReturn

from exeunt.process.start import start


def main() -> NoReturn:
    """Run until SIGTERM."""
    start("exeunt-livekit-bridge", "exeunt_livekit_bridge.app")


if __name__ == "__main__":
    main()
