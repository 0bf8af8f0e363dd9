"""See `rtcflow.fastrtc._run`."""

import sys

from rtcflow.fastrtc._run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
