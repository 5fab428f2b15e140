"""`python -m sandbox.cluster.postgres [OPTION…]`: what the official image's entry point does.

Where PGDATA is empty it makes the database that the POSTGRES_* variables describe; then it becomes
`postgres` with the options given. PostgreSQL refuses to run as root: there it runs as `nobody`,
which owns its files.
"""

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def main(options: Sequence[str]) -> None:
    """Make the database if there is none, and become the server."""
    found = shutil.which("postgres")
    if found is None:
        raise SystemExit("error: `postgres` is not on PATH")
    programs, data = Path(found).parent, Path(os.environ["PGDATA"])
    sockets = Path(os.environ["PGHOST"])
    sockets.mkdir(parents=True, exist_ok=True)
    _give(sockets)
    if not (data / "PG_VERSION").exists():
        _initialise(data, programs, sockets / "password")
    _give(data)
    os.chdir(data)
    server = [str(programs / "postgres"), "-D", str(data), "-k", str(sockets)]
    server += ["-h", os.environ.get("HOLDFAST_ADDRESS", "127.0.0.1"), *options]
    command = _as_user(server, data, programs)
    os.execvp(command[0], command)


def _initialise(data: Path, programs: Path, login: Path) -> None:
    """In a directory beside it that is renamed at the end: half a database does not exist.

    `login` is where its user may read the password: the Secret's file belongs to root.
    """
    making = data.with_name(f".{data.name}-making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    _give(making)
    user, name = os.environ["POSTGRES_USER"], os.environ["POSTGRES_DB"]
    login.write_bytes(Path(os.environ["POSTGRES_PASSWORD_FILE"]).read_bytes())
    _give(login)
    command = [str(programs / "initdb"), "--pgdata", str(making), "--username", user]
    command += ["--pwfile", str(login), "--no-sync", "--encoding=UTF8", "--locale=C"]
    command += shlex.split(os.environ.get("POSTGRES_INITDB_ARGS", ""))
    _run(_as_user(command, making, programs))
    login.unlink()
    with (making / "pg_hba.conf").open("a") as rules:  # as the image does
        rules.write("host all all all scram-sha-256\n")
    single = [str(programs / "postgres"), "--single", "-D", str(making), "postgres"]
    quoted = name.replace('"', '""')
    _run(_as_user(single, making, programs), f'CREATE DATABASE "{quoted}"\n'.encode())
    making.rename(data)


def _run(command: list[str], given: bytes = b"") -> None:
    done = subprocess.run(command, input=given, check=False, cwd="/", stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: ended with {done.returncode}")


def _as_user(command: list[str], *places: Path) -> list[str]:
    """The command as `nobody`, where we are root.

    A checkout in a directory that is closed to others, such as root's home, stays closed: the
    server then keeps the one right to pass through, also where a program asks first (access(2)
    forgets the rights of anyone but root, unless told otherwise).
    """
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        raise SystemExit("error: PostgreSQL does not run as root: install util-linux (setpriv)")
    nobody = pwd.getpwnam("nobody")
    other = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    if not all(parent.stat().st_mode & 0o001 for place in places for parent in place.parents):
        other += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override",
                  "--securebits=+no_setuid_fixup"]  # fmt: skip
    return [*other, *command]


def _give(place: Path) -> None:
    """Make a file or a directory `nobody`'s, with all that is in it; for its eyes only."""
    place.chmod(0o700 if place.is_dir() else 0o600)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (place, *place.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)


if __name__ == "__main__":
    main(sys.argv[1:])
