"""The course's commands: `python -m mmlesson doctor`, `student`, `contract` or `home`."""

import argparse
import sys


def main(arguments=None):
    """Run one command. Returns its exit code; a wrong name or a problem ends in one sentence."""
    parser = argparse.ArgumentParser(prog="python -m mmlesson", description="The course's commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="check this machine and say how to fix what is wrong")
    commands.add_parser("student", help="build the student edition in student/ (keeps every file that exists)")
    commands.add_parser("contract", help="write the README's table of minutes and megabytes from results/")
    commands.add_parser("home", help="write every address of the course as pyproject.toml's Homepage says")
    command = parser.parse_args(arguments).command
    try:
        if command == "doctor":
            from mmlesson.tools import doctor

            return doctor.main()
        if command == "student":
            from mmlesson.tools import student

            return student.main()
        if command == "home":
            from mmlesson.tools import home

            return home.main()
        from mmlesson.tools import readme_table

        return readme_table.main()
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:  # a folder of somebody else's, a full disk
        print(
            f"{error.filename} cannot be written ({error.strerror}): copy the course to a folder of yours.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
