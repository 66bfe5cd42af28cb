"""Agents that go wrong, by name: `agent.py MODE PLACE`.

All of them do it right once PLACE/repaired is there.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

RIGHT = "def answer():\n    return 42\n"
MIB = 1 << 20
SLEEPER = "import time; time.sleep(600)"


def right() -> None:
    pathlib.Path("app.py").write_text(RIGHT, "utf-8")


def nothing(_place: pathlib.Path) -> None:
    """Says that it is done."""
    sys.stdout.write("All done, and every test passes!\n")


def ignored(_place: pathlib.Path) -> None:
    """Its own look at the tests is green, by a file that git does not take."""
    pathlib.Path("secret_local.py").write_text("ANSWER = 42\n", "utf-8")
    text = "import secret_local\n\n\ndef answer():\n    return secret_local.ANSWER\n"
    pathlib.Path("app.py").write_text(text, "utf-8")
    subprocess.run([sys.executable, "check.py"], check=True)


def deletes(_place: pathlib.Path) -> None:
    """Leaves nothing but `.git`."""
    for path in pathlib.Path().iterdir():
        if path.name != ".git":
            path.unlink()


def deletes_all(_place: pathlib.Path) -> None:
    """Leaves nothing, the workspace included."""
    shutil.rmtree(pathlib.Path.cwd())


def replaces(place: pathlib.Path) -> None:
    """Has another directory taken for the workspace."""
    here = pathlib.Path.cwd()
    (place / "elsewhere").mkdir(exist_ok=True)
    (place / "elsewhere" / "secret.txt").write_text("not part of the project", "utf-8")
    shutil.rmtree(here)
    here.symlink_to(place / "elsewhere")


def strays(_place: pathlib.Path) -> None:
    """Makes the tests easier, and leaves a file."""
    right()
    pathlib.Path("check.py").write_text("", "utf-8")
    pathlib.Path("new.txt").write_text("new", "utf-8")


def writes_100_mb(_place: pathlib.Path) -> None:
    right()
    with pathlib.Path("big.bin").open("wb") as big:
        big.writelines(os.urandom(MIB) for _ in range(101))


def prints_100_mb(_place: pathlib.Path) -> None:
    right()
    line = b"x" * 1023 + b"\n"
    for _ in range(100):
        sys.stdout.buffer.write(line * 1024)


def never_ends(place: pathlib.Path) -> None:
    """Neither does what it has started, which ignores every polite request."""
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
    child = subprocess.Popen([sys.executable, "-c", ignore], start_new_session=True)
    (place / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def leaves_children(place: pathlib.Path) -> None:
    """One in its group, one in a session of its own, one whose parent is gone; all hold the output open."""
    right()
    pids = [
        subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=own).pid for own in (False, True)
    ]
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        daemon = subprocess.Popen([sys.executable, "-c", SLEEPER])
        os.write(writing, str(daemon.pid).encode())
        os._exit(0)
    os.wait()
    pids.append(int(os.read(reading, 20)))
    (place / "pids").write_text(" ".join(map(str, pids)))


if __name__ == "__main__":
    mode, place = sys.argv[1], pathlib.Path(sys.argv[2])
    right() if (place / "repaired").exists() else globals()[mode](place)
