"""Run the LiveKit bridge: `exeunt-livekit-bridge` or `python -m exeunt_livekit_bridge`."""

from typing import NoReturn

from exeunt.service import main as serve
from exeunt.streams import ensure_livekit_stream
from exeunt_livekit_bridge.app import compose


def main() -> NoReturn:
    """Run until SIGTERM."""
    serve("exeunt-livekit-bridge", compose, ensure=ensure_livekit_stream, kubernetes=False)


if __name__ == "__main__":
    main()
