"""Sees to the packages first, since everything else imports them."""

from __future__ import annotations

import sys

from gpu.packages import PackagesMissing, provide_packages

if __name__ == "__main__":
    try:
        provide_packages()
    except PackagesMissing as error:
        sys.exit(f"make gpu: {error}")
    from gpu.command import main

    main()
