"""A camera for tests and for trying things out: an RTSP server that can be told to misbehave.

Runs under the system's Python, where GStreamer's bindings are: /usr/bin/python3 rtsp_server.py --port 8554
Serves rtsp://HOST:PORT/cam: a moving ball, or a video file in a loop (`--clip`). Says "ready" once it
listens. Commands on standard input, one a line, each answered with "ok":

    stall          connections stay open, no packet leaves any more
    go             packets leave again
    size 320 240   another picture size, in the middle of the stream
    shift -30      time stamps jump by so many seconds
    loss 0.3       this share of the RTP packets is lost
    corrupt 0.001  this share of the bytes of the coded picture is overwritten
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURES = "videotestsrc is-live=true pattern={pattern}"
# The loop is decoded beside the server and handed over by name, so that every client sees one running picture.
LOOP = "intervideosrc channel=clip"
ENCODED = (
    "{pictures} ! videoconvert ! videoscale ! videorate ! capsfilter name=size caps={caps}"
    " ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 bitrate={kbps} key-int-max={gop}"
    # One slice fits one packet, so that losing a packet is losing a slice.
    " option-string=slice-max-size=900"
    " ! video/x-h264,profile=baseline,stream-format=byte-stream ! breakmydata name=corrupt probability=0"
    " ! rtph264pay name=pay0 pt=96 mtu=1400"
)


def caps(width: int, height: int, fps: int) -> str:
    return f"video/x-raw,format=I420,width={width},height={height},framerate={fps}/1,pixel-aspect-ratio=1/1"


class Camera(GstRtspServer.RTSPMediaFactory):
    """One picture for all clients, with its faults."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self._fps = arguments.fps
        self._size = (arguments.width, arguments.height)
        self._loss = self._corrupt = 0.0
        self._shift_s = 0.0
        self._stalled = False
        self._chance = random.Random(1)
        self._elements: Gst.Bin | None = None
        self.set_launch(
            "( "
            + ENCODED.format(
                pictures=LOOP if arguments.clip else PICTURES.format(pattern=arguments.pattern),
                caps=caps(*self._size, self._fps),
                kbps=arguments.kbps,
                gop=arguments.gop,
            )
            + " )"
        )
        self.set_shared(True)
        self.set_latency(0)
        self.connect("media-configure", self._configured)

    def command(self, words: list[str]) -> None:
        """Carry out one line of standard input."""
        name, *values = words
        if name in ("stall", "go"):
            self._stalled = name == "stall"
        elif name == "size":
            self._size = (int(values[0]), int(values[1]))
        elif name == "shift":
            self._shift_s += float(values[0])
        elif name == "loss":
            self._loss = float(values[0])
        elif name == "corrupt":
            self._corrupt = float(values[0])
        else:
            raise ValueError(name)
        self._apply()

    def _configured(self, factory: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
        self._elements = media.get_element()
        self._elements.get_by_name("pay0").get_static_pad("src").add_probe(
            Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST, self._pass
        )
        self._apply()

    def _pass(self, pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        lost = self._stalled or self._chance.random() < self._loss
        return Gst.PadProbeReturn.DROP if lost else Gst.PadProbeReturn.OK

    def _apply(self) -> None:
        if self._elements is None:
            return
        at = self._elements.get_by_name
        at("size").set_property("caps", Gst.Caps.from_string(caps(*self._size, self._fps)))
        at("corrupt").set_property("probability", self._corrupt)
        at("corrupt").get_static_pad("src").set_offset(int(self._shift_s * Gst.SECOND))


def loop_clip(path: str) -> Gst.Pipeline:
    """Play a video file over and over into the channel `clip`."""
    pipeline = Gst.parse_launch(
        f'filesrc location="{path}" ! decodebin ! videoconvert ! videoscale ! intervideosink channel=clip sync=true'
    )

    def again(bus: Gst.Bus, message: Gst.Message) -> None:
        if message.type == Gst.MessageType.EOS:
            pipeline.seek_simple(Gst.Format.TIME, Gst.SeekFlags.FLUSH, 0)
        elif message.type == Gst.MessageType.ERROR:
            sys.exit(f"{path}: {message.parse_error()[0].message}")

    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", again)
    pipeline.set_state(Gst.State.PLAYING)
    return pipeline


def demand_password(server: GstRtspServer.RTSPServer, camera: Camera, user: str, password: str) -> None:
    """Only `user` with `password` may look."""
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    role = Gst.Structure.new_empty("viewer")
    for right in ("media.factory.access", "media.factory.construct"):
        role.set_value(right, True)
    camera.add_role_from_structure(role)
    server.set_auth(auth)


def obey(camera: Camera, stop: Callable[[], None]) -> None:
    """Read commands until standard input ends, which ends the server too."""

    def carry_out(words: list[str]) -> bool:
        camera.command(words)
        say("ok")
        return False

    for line in sys.stdin:
        if words := line.split():
            GLib.idle_add(carry_out, words)
    GLib.idle_add(stop)


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", default="8554")
    parser.add_argument("--clip", help="a video file to show in a loop, instead of a moving ball")
    parser.add_argument("--pattern", default="ball", help="what videotestsrc shows: ball, snow, smpte, ...")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--fps", type=int, default=10)
    parser.add_argument("--gop", type=int, default=5, help="frames from one key picture to the next")
    parser.add_argument("--kbps", type=int, default=400)
    parser.add_argument("--login", type=Path, help="a file with USER:PASSWORD; without it everybody may look")
    parser.add_argument("--forever", action="store_true", help="do not read commands, run until killed")
    arguments = parser.parse_args()

    Gst.init(None)
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer()
    server.set_address(arguments.address)
    server.set_service(arguments.port)
    camera = Camera(arguments)
    if arguments.login:
        demand_password(server, camera, *arguments.login.read_text().strip().split(":", 1))
    server.get_mount_points().add_factory("/cam", camera)
    if server.attach(None) == 0:
        sys.exit(f"cannot listen at {arguments.address}:{arguments.port}")
    clip = loop_clip(arguments.clip) if arguments.clip else None
    say("ready")
    if not arguments.forever:
        threading.Thread(target=obey, args=(camera, loop.quit), daemon=True).start()
    loop.run()
    if clip is not None:
        clip.set_state(Gst.State.NULL)


if __name__ == "__main__":
    main()
