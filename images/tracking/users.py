"""Give MLflow's users the passwords of a mounted Secret: one file each, named like the user.

Runs before the server. MLflow itself reads the administrator's password at its very first start
only: a restored or older database would keep one that nobody knows any more. The database is found
by the PG* variables and the file that MLFLOW_AUTH_CONFIG_PATH names, the passwords by
HOLDFAST_USERS.

    python users.py [DIRECTORY]
"""

import os
import sys
import time
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.server.auth.config import read_auth_config
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.exc import OperationalError

PASSWORDS = Path(os.environ.get("HOLDFAST_USERS", "/var/run/holdfast/users"))
#: Seconds to wait for the database: its own start may replay its log.
PATIENCE = 300


def main(directory: Path = PASSWORDS) -> int:
    """Make or change every user; 1 when the database cannot be reached."""
    config = read_auth_config()
    store = SqlAlchemyStore()
    until = time.monotonic() + PATIENCE
    while True:
        try:
            store.init_db(config.database_uri)
            break
        except (OperationalError, MlflowException) as error:
            if time.monotonic() > until:
                print(f"cannot reach the database: {_reason(error)}", file=sys.stderr)
                return 1
            time.sleep(2)
    for file in sorted(directory.iterdir()):
        if file.name.startswith("."):  # how Kubernetes keeps the versions of a mounted Secret
            continue
        name, password = file.name, file.read_text(encoding="utf-8")
        administrator = name == config.admin_username
        if store.has_user(name):
            store.update_user(name, password=password, is_admin=administrator)
            print(f"user {name}: password set")
        else:
            store.create_user(name, password, is_admin=administrator)
            print(f"user {name}: created")
    return 0


def _reason(error: Exception) -> str:
    """The first line: what follows holds the statement, and may hold what it was about."""
    return str(error).partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
