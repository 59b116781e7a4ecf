"""What the Python suites share: a line for each check, and a restart of the servers on request."""

import inspect
import os
import sys
import traceback

URL = os.environ["DATABASE_URL"]
N_SHARDS = int(os.environ["SHARDS"])


def restart_servers():
    """Asks the test that runs this program to restart every Postgres server, and waits until it has."""
    print("> restart", flush=True)
    assert sys.stdin.readline().strip() == "done"


def after_at_most_one_error(attempt, errors):
    """What `attempt` returns, now or the second time."""
    try:
        return attempt()
    except errors:
        return attempt()


def run(*checks):
    """Runs all checks, also those after a failed one, and exits with 1 if one has failed."""
    failed = False
    for check in checks:
        name = check.__name__
        try:
            check()
        except BaseException:
            failed = True
            print(f"FAILED {name}", traceback.format_exc(), sep="\n", flush=True)
        else:
            print(f"ok {name}", flush=True)
    sys.exit(failed)


async def run_async(*checks):
    """The same for checks that are coroutines."""
    failed = False
    for check in checks:
        assert inspect.iscoroutinefunction(check)
        name = check.__name__
        try:
            await check()
        except Exception:
            failed = True
            print(f"FAILED {name}", traceback.format_exc(), sep="\n", flush=True)
        else:
            print(f"ok {name}", flush=True)
    sys.exit(failed)
