# What the suites of command line programs share: a line for each check, and a restart of the servers on request.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The test that runs this program, also where standard output is a pipe.
exec 3>&1 4<&0

# FOUND EXPECTED
equal() {
    [ "$1" = "$2" ] || { printf '%q instead of %q\n' "$1" "$2" >&3 && false; }
}

# Asks the test that runs this program to restart every Postgres server, and waits until it has.
restart_servers() {
    local answer
    echo '> restart' >&3
    read -r answer <&4 && [ "$answer" = "done" ]
}

# Runs all checks, also those after a failed one, and exits with 1 if one has failed.
checks() {
    local check has_failed=0
    for check in "$@"; do
        if $check </dev/null; then
            echo "ok $check"
        else
            echo "FAILED $check"
            has_failed=1
        fi
    done
    exit $has_failed
}
