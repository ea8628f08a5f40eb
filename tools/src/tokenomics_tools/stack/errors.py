"""The one error the stack raises."""


class StackError(Exception):
    """The stack cannot do what was asked; the message quotes the log where there is one."""
