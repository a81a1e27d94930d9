"""Write what each small example prints into its closing comment: `python -m tests.examples.refresh`.

To be run when the checkpoint beside the examples changes. Read the difference before it is committed.
"""

import os
import subprocess
import sys

from tests.examples.conftest import EXAMPLES
from tests.examples.test_examples import OUTPUT, SMALL


def main() -> None:
    for name in SMALL:
        path = EXAMPLES / name
        environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "PYTHONUTF8": "1"}
        printed = subprocess.run(
            [sys.executable, str(path)], env=environment, capture_output=True, encoding="utf-8", check=True
        ).stdout
        code = path.read_text(encoding="utf-8").split(f"\n{OUTPUT}")[0].rstrip()
        comment = "\n".join(f"# {line}".rstrip() for line in [*printed.rstrip().split("\n")])
        path.write_text(f"{code}\n\n{OUTPUT}\n{comment}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
