"""The restoring script: stands in for an agent, and puts a module of the release back in its place.

    restore.py ORIGINALS TASK PROMPT_FILE [--wrong-first] [--disturbed]

With `--wrong-first` it writes wrong bodies until it is told, in its prompt, which of the module's tests
failed. With `--disturbed` an attempt may also have failed for no fault of its own: somebody killed it.
"""

import pathlib
import sys
import time

TOLD = "# Your previous attempt failed"
#: About as long as the quickest of real agents takes, so that kills find something in the middle of it.
WORK_S = 0.2


def main() -> int:
    originals, task, prompt_file, *flags = sys.argv[1:]
    time.sleep(WORK_S)
    target = pathlib.Path("boltons", f"{task}.py")
    _, heading, told = pathlib.Path(prompt_file).read_text("utf-8").partition(TOLD)
    if "--wrong-first" in flags and not heading:
        wrong = target.read_text("utf-8").replace("raise NotImplementedError", "return None  # wrong")
        target.write_text(wrong, "utf-8")
        sys.stdout.write(f"wrote wrong bodies into {target}\n")
        return 0
    if heading and "--disturbed" not in flags and f"tests/test_{task}.py" not in told:
        sys.stderr.write(f"the prompt does not say which test of {task} failed\n")
        return 1
    target.write_bytes(pathlib.Path(originals, f"{task}.py").read_bytes())
    sys.stdout.write(f"restored {target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
