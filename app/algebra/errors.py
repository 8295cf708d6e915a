"""Everything that algebra may refuse, each with a stable code."""


class AlgebraError(Exception):
    """The text is no school mathematics that this package can do."""

    code = "algebra_error"


class SyntaxRefusedError(AlgebraError):
    """The text does not read as mathematics."""

    code = "syntax"


class UnknownNameError(AlgebraError):
    """A word that is neither a known function nor a variable."""

    code = "unknown_name"


class TooComplexError(AlgebraError):
    """A bound on size, depth, digits, exponents or degree was exceeded."""

    code = "too_complex"


class UndefinedError(AlgebraError):
    """The value does not exist, as in a division by zero."""

    code = "undefined"


class UnsupportedError(AlgebraError):
    """Well formed, but of a kind that this package does not solve."""

    code = "unsupported"


class DeadlineError(AlgebraError):
    """The work was abandoned because its time was up."""

    code = "deadline"
