"""The 96 objects and 8 colors of the world: one row each, with the OpenMoji code point that draws it.

Every name is a single English word (it is one token, and one spoken word), and every code point stands alone
(no joined sequences, which would need a text-shaping library).
"""

from typing import NamedTuple


class Object(NamedTuple):
    name: str  # English, one word
    korean: str
    code_point: int
    category: str  # animal, food, plant, vehicle or thing


class Color(NamedTuple):
    name: str
    korean: str
    rgb: tuple[int, int, int]


def _rows(category, table):
    rows = (row.split() for row in table.split(","))
    return [Object(name, korean, int(code, 16), category) for name, korean, code in rows]


OBJECTS = (
    _rows(
        "animal",
        """cat 고양이 1F408, dog 개 1F415, horse 말 1F40E, pig 돼지 1F416, sheep 양 1F411, rabbit 토끼 1F407,
        elephant 코끼리 1F418, camel 낙타 1F42A, giraffe 기린 1F992, monkey 원숭이 1F435, snake 뱀 1F40D,
        turtle 거북이 1F422, frog 개구리 1F438, fish 물고기 1F41F, whale 고래 1F433, octopus 문어 1F419, crab 게 1F980,
        snail 달팽이 1F40C, butterfly 나비 1F98B, bee 벌 1F41D, ant 개미 1F41C, duck 오리 1F986, owl 부엉이 1F989,
        penguin 펭귄 1F427""",
    )
    + _rows(
        "food",
        """apple 사과 1F34E, pear 배 1F350, lemon 레몬 1F34B, banana 바나나 1F34C, grapes 포도 1F347,
        strawberry 딸기 1F353, cherries 체리 1F352, pineapple 파인애플 1F34D, watermelon 수박 1F349, carrot 당근 1F955,
        corn 옥수수 1F33D, mushroom 버섯 1F344, bread 빵 1F35E, cheese 치즈 1F9C0, pizza 피자 1F355,
        burger 햄버거 1F354, cake 케이크 1F370, cookie 쿠키 1F36A, donut 도넛 1F369, icecream 아이스크림 1F366""",
    )
    + _rows(
        "plant",
        """tree 나무 1F333, pine 소나무 1F332, palm 야자수 1F334, cactus 선인장 1F335, tulip 튤립 1F337,
        rose 장미 1F339, sunflower 해바라기 1F33B, clover 클로버 1F340""",
    )
    + _rows(
        "vehicle",
        """car 자동차 1F697, bus 버스 1F68C, truck 트럭 1F69B, bicycle 자전거 1F6B2, canoe 카누 1F6F6,
        train 기차 1F682, airplane 비행기 2708, helicopter 헬리콥터 1F681, rocket 로켓 1F680, sailboat 돛단배 26F5,
        ufo 비행접시 1F6F8, tractor 트랙터 1F69C, tram 전차 1F68A, motorcycle 오토바이 1F3CD""",
    )
    + _rows(
        "thing",
        """ball 공 26BD, guitar 기타 1F3B8, drum 북 1F941, trumpet 나팔 1F3BA, book 책 1F4D6, key 열쇠 1F511,
        lock 자물쇠 1F512, hammer 망치 1F528, scissors 가위 2702, umbrella 우산 2614, clock 시계 23F0,
        camera 카메라 1F4F7, bulb 전구 1F4A1, castle 성 1F3F0, chair 의자 1FA91, door 문 1F6AA, shoe 신발 1F45F,
        hat 모자 1F3A9, crown 왕관 1F451, shirt 셔츠 1F455, glasses 안경 1F453, gloves 장갑 1F9E4, cup 컵 2615,
        robot 로봇 1F916, kite 연 1FA81, balloon 풍선 1F388, bell 종 1F514, house 집 1F3E0, star 별 2B50,
        heart 하트 2764""",
    )
)

COLORS = (
    Color("red", "빨간색", (222, 45, 48)),
    Color("orange", "주황색", (250, 140, 22)),
    Color("yellow", "노란색", (250, 222, 40)),
    Color("green", "초록색", (60, 170, 72)),
    Color("blue", "파란색", (44, 104, 214)),
    Color("purple", "보라색", (140, 72, 190)),
    Color("pink", "분홍색", (248, 150, 196)),
    Color("gray", "회색", (150, 150, 150)),
)
NATURAL = len(COLORS)  # the color index that means "as OpenMoji drew it"
