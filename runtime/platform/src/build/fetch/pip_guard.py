# Runs pip, and starts no program for it: a fetch runs none of an app's code, and has the network.
import os
import sys

STARTS = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")
# What pip asks about the system, to tell the index; it goes on without.
ASKS = ("lsb_release", "oslevel", "rustc", "uname")


def guard(event, args):
    if event not in STARTS:
        return
    program = os.path.basename(str(args[0])) if args else ""
    if program not in ASKS:
        text = "requirements.txt: pip would have to run `{}`, and a fetch runs no programs: only wheels are fetched, " \
               "and nothing from paths, archives of sources and repositories\n"
        sys.stdout.flush()
        sys.stderr.write(text.format(program))
        sys.stderr.flush()
        os._exit(1)
    raise PermissionError("a fetch runs no programs")


sys.addaudithook(guard)

from pip._internal.cli.main import main  # noqa: E402

sys.exit(main())
