"""What the Python suites share: a line for each check, and a restart of the servers on request."""

import contextlib
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


@contextlib.contextmanager
def told(check, failed):
    """Prints how a check ends, and adds its name to `failed` if it fails."""
    name = check.__name__
    try:
        yield
    except BaseException:
        failed.append(name)
        print(f"FAILED {name}", traceback.format_exc(), sep="\n", flush=True)
    else:
        print(f"ok {name}", flush=True)


def run(*checks):
    """Runs all checks, also those after a failed one, and exits with 1 if one has failed."""
    failed = []
    for check in checks:
        with told(check, failed):
            check()
    sys.exit(bool(failed))


async def run_async(*checks):
    """The same for checks that are coroutines."""
    failed = []
    for check in checks:
        assert inspect.iscoroutinefunction(check)
        with told(check, failed):
            await check()
    sys.exit(bool(failed))
