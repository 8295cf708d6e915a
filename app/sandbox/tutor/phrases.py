"""Everything that the tutor says, in Korean and in English.

Mathematics comes between the words as LaTeX and again as plain text, so that an app without
a typesetter can show an answer, too.
"""

from dataclasses import dataclass
from typing import Final

from app.sandbox.tutor.question import Language


@dataclass(frozen=True, slots=True)
class Phrases:
    """One language; braces are filled by `str.format` where a value is needed."""

    offline: str
    unreadable: str
    found: str
    not_found: str
    refused: dict[str, str]
    of_course: str
    assumed_zero: str
    roots: dict[str, str]
    complex_roots: str
    approximate_roots: str
    excluded: str
    times: str
    given: str
    standard: str
    divide: str
    formula: str
    discriminant: str
    discriminant_sign: dict[int, str]
    discriminant_unknown: str
    put_in: str
    factored: str
    result: str
    about: str
    value: str
    simplified: str
    not_real: str
    order_of_operations: str
    derivative: str
    second_derivative: str
    integral: str
    definite: str
    by_terms: str
    higher_order: str
    put_bounds: str
    constant: str
    system: dict[str, str]
    elimination: str
    substitution: str
    holds: str
    fails: str
    both_sides: str
    closing: str


KOREAN: Final = Phrases(
    offline=(
        "저는 오프라인 수학 튜터라서 이 질문에는 답할 수 없습니다. 계산, 일차·이차방정식, "
        "연립일차방정식, 미분, 적분은 직접 풀어 드릴 수 있습니다. "
        "예: `3x^2 + 11x - 10 = 0`을 풀어 주세요."
    ),
    unreadable=(
        "저는 오프라인 수학 튜터라서 사진이나 문서는 볼 수 없습니다. 식을 글로 적어 주세요."
    ),
    found="{filename} 파일에 다음과 같이 적혀 있습니다.",
    not_found="파일에서 질문의 낱말을 찾지 못했습니다.",
    refused={
        "deadline": "이 계산은 정해진 시간 안에 끝나지 않아서 중단했습니다.",
        "too_complex": "이 식은 제가 다루기에는 너무 큽니다.",
        "undefined": "이 값은 정의되지 않습니다. 예를 들어 0으로 나눌 수는 없습니다.",
        "unsupported": "저는 오프라인 수학 튜터라서 이 문제는 정확히 풀 수 없습니다.",
    },
    of_course="물론입니다!",
    assumed_zero="식이 0이 되는 값을 구하겠습니다.",
    roots={
        "identity": "이 방정식은 항등식이므로 {variable}의 모든 값에 대해 성립합니다.",
        "contradiction": "이 방정식을 만족하는 {variable}의 값은 없습니다.",
        "none": "허용되는 해가 없습니다.",
        "one": "방정식 \\( {equation} \\)의 해는 다음과 같습니다.",
        "many": "방정식 \\( {equation} \\)의 해는 다음과 같습니다.",
    },
    complex_roots="i가 있는 해는 허수해이고, 실수 중에는 그런 해가 없습니다.",
    approximate_roots="≈로 적은 해는 근삿값입니다.",
    excluded="분모가 0이 되므로 {values}은(는) 해가 될 수 없습니다.",
    times="({count}중근)",
    given="주어진 방정식 확인",
    standard="모든 항을 왼쪽으로 옮겨 정리하기",
    divide="{variable}에 대해 풀기",
    formula="근의 공식 사용하기",
    discriminant="판별식 계산하기",
    discriminant_sign={
        1: "판별식이 0보다 크므로 서로 다른 두 실근이 있습니다.",
        0: "판별식이 0이므로 중근이 있습니다.",
        -1: "판별식이 0보다 작으므로 실근은 없고 서로 다른 두 허근이 있습니다.",
    },
    discriminant_unknown="근이 실수인지는 다른 문자의 값에 따라 다릅니다.",
    put_in="값 대입하기",
    factored="인수분해로 확인하기",
    result="최종 결과",
    about="약 {value}",
    value="계산 결과는 다음과 같습니다.",
    simplified="식을 정리하면 다음과 같습니다.",
    not_real="이 값은 실수가 아니라 복소수입니다.",
    order_of_operations="괄호, 거듭제곱, 곱셈과 나눗셈, 덧셈과 뺄셈의 순서로 계산합니다.",
    derivative="\\( {source} \\)를 {variable}에 대해 미분하면 다음과 같습니다.",
    second_derivative="\\( {source} \\)를 {variable}에 대해 {order}번 미분하면 다음과 같습니다.",
    integral="\\( {source} \\)를 {variable}에 대해 적분하면 다음과 같습니다. (C는 적분상수)",
    definite="정적분의 값은 다음과 같습니다.",
    by_terms="각 항을 따로 계산하기",
    higher_order="같은 방법으로 {order}번까지 미분하기",
    put_bounds="위끝과 아래끝을 대입하여 빼기",
    constant="적분상수 C를 더하기",
    system={
        "unique": "연립방정식의 해는 다음과 같습니다.",
        "infinite": "해가 무수히 많습니다. 나머지 문자는 자유롭게 정할 수 있습니다.",
        "none": "이 연립방정식에는 해가 없습니다. 방정식들이 서로 모순됩니다.",
    },
    elimination="한 방정식의 배수를 다른 방정식에서 빼서 문자를 하나씩 없앱니다.",
    substitution="구한 값을 다른 방정식에 대입하여 나머지 문자를 구합니다.",
    holds="맞습니다. 양변이 같습니다.",
    fails="아니요, 양변이 같지 않습니다.",
    both_sides="양변을 각각 계산하면 다음과 같습니다.",
    closing="이해가 더 잘 되셨나요? 추가 질문이 있으면 말씀해 주세요!",
)

ENGLISH: Final = Phrases(
    offline=(
        "I'm an offline tutor, so I can't answer this. I can really work out arithmetic, linear "
        "and quadratic equations, systems of linear equations, derivatives and integrals. "
        "For example: solve `3x^2 + 11x - 10 = 0`."
    ),
    unreadable=(
        "I am an offline tutor: I can't look at pictures or documents. Please type the equation."
    ),
    found="Your file {filename} says:",
    not_found="I found none of your words in the files.",
    refused={
        "deadline": "I stopped this calculation, because it did not end in time.",
        "too_complex": "This is too large for me to work out.",
        "undefined": "This value is not defined; one can't divide by zero, for example.",
        "unsupported": "I'm an offline tutor, and I can't solve this one exactly.",
    },
    of_course="Of course!",
    assumed_zero="I take it that you look for the values that make this zero.",
    roots={
        "identity": "This equation is an identity: every value of {variable} satisfies it.",
        "contradiction": "No value of {variable} satisfies this equation.",
        "none": "There is no admissible solution.",
        "one": "The equation \\( {equation} \\) has this solution:",
        "many": "The equation \\( {equation} \\) has these solutions:",
    },
    complex_roots="Solutions with i are complex: no real number is such a solution.",
    approximate_roots="Solutions with ≈ are approximations.",
    excluded="A denominator would be zero, so {values} can't be a solution.",
    times="(counted {count} times)",
    given="Look at the equation",
    standard="Bring all terms to the left side",
    divide="Solve for {variable}",
    formula="Use the quadratic formula",
    discriminant="Compute the discriminant",
    discriminant_sign={
        1: "It is greater than zero, so there are two different real solutions.",
        0: "It is zero, so both solutions are the same.",
        -1: "It is less than zero, so there are no real solutions, but two complex ones.",
    },
    discriminant_unknown="Whether the solutions are real depends on the other letters.",
    put_in="Put the values in",
    factored="Check by factoring",
    result="Result",
    about="about {value}",
    value="The value is:",
    simplified="Simplified, this is:",
    not_real="This is a complex number, not a real one.",
    order_of_operations="Brackets first, then powers, then products and quotients, then sums.",
    derivative="The derivative of \\( {source} \\) with respect to {variable} is:",
    second_derivative="The derivative of order {order} of \\( {source} \\) by {variable} is:",
    integral="The integral of \\( {source} \\) with respect to {variable} (C is any constant) is:",
    definite="The definite integral is:",
    by_terms="Take each term by itself",
    higher_order="Go on in the same way up to order {order}",
    put_bounds="Put in the upper and the lower bound and subtract",
    constant="Add the constant of integration",
    system={
        "unique": "The solution of the system is:",
        "infinite": "The system has infinitely many solutions; the other letters are free:",
        "none": "The system has no solution: its equations contradict each other.",
    },
    elimination="Subtract multiples of one equation from another, to remove letter after letter.",
    substitution="Put the values found into another equation to get the remaining letters.",
    holds="Yes, both sides are equal.",
    fails="No, the two sides are not equal.",
    both_sides="Worked out separately, the sides are:",
    closing="Is it clearer now? Just ask if anything is left open!",
)


def phrases_of(language: Language) -> Phrases:
    """Return the phrases of a language."""
    return KOREAN if language == "ko" else ENGLISH
