"""Honest whole programs, as in ``scripts.py``, that start threads, import modules or inspect the interpreter."""

from tests.rewards.scripts import SUM

SCRIPTS = {
    # Threads and tasks.
    "thread not joined": ("import threading\nthreading.Thread(target=lambda: print('x')).start()\n", ""),
    "thread that sleeps": (
        "import threading, time\ndef f():\n    time.sleep(0.05)\n    print('late')\nthreading.Thread(target=f).start()\nprint('early')\n",
        "",
    ),
    "big stack thread": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**27)\ndef f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\ndef main():\n    print(f(20000))\nt = threading.Thread(target=main)\nt.start()\nt.join()\n",
        "",
    ),
    "stack of half a gigabyte": (
        "import threading\nthreading.stack_size(512 * 1024 * 1024)\nt = threading.Thread(target=lambda: print('x'))\nt.start()\nt.join()\n",
        "",
    ),
    "daemon thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\nprint('x')\n",
        "",
    ),
    "exception in a thread": (
        "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()\nprint('x')\n",
        "",
    ),
    "executor": (
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n    print(list(pool.map(abs, [-1, 2, -3])))\n",
        "",
    ),
    "executor not shut down": (
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\npool.submit(print, 'x')\n",
        "",
    ),
    "timer": ("import threading\nthreading.Timer(0.02, print, ['tick']).start()\n", ""),
    "queue": (
        "import queue, threading\nq = queue.Queue()\nthreading.Thread(target=lambda: [q.put(i) for i in range(3)]).start()\nprint([q.get() for _ in range(3)])\n",
        "",
    ),
    "asyncio": (
        "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print(await asyncio.gather(*(asyncio.sleep(0, i) for i in range(3))))\nasyncio.run(main())\n",
        "",
    ),
    "asyncio to_thread": ("import asyncio\nprint(asyncio.run(asyncio.to_thread(sum, [1, 2])))\n", ""),
    "sys.exit in a thread": (
        "import sys, threading\nt = threading.Thread(target=sys.exit, args=(3,))\nt.start()\nt.join()\nprint('x')\n",
        "",
    ),
    "SystemExit while a thread runs": (
        "import sys, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.03), print('late'))).start()\nsys.exit(0)\n",
        "",
    ),
    # The module and the interpreter.
    "main guard": ("def main():\n    print('x')\nif __name__ == '__main__':\n    main()\n", ""),
    "sys.exit(main())": (
        "import sys\ndef main():\n    print('x')\nif __name__ == '__main__':\n    sys.exit(main())\n",
        "",
    ),
    "argv": ("import sys\nprint(len(sys.argv), sys.argv[1:])\n", ""),
    "argparse": (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--n', type=int, default=3)\nprint(p.parse_args().n)\n",
        "",
    ),
    "__file__": ("import os\nprint(os.path.basename(__file__), bool(__file__))\n", ""),
    "os.path.exists": (
        "import os\nimport sys\nif os.path.exists('input.txt'):\n    sys.stdin = open('input.txt')\nprint(input())\n",
        SUM,
    ),
    "local judge switch": (
        "import os\nif os.environ.get('LOCAL'):\n    print('local')\nprint('x', 'ONLINE_JUDGE' in os.environ)\n",
        "",
    ),
    "chdir to the script": ("import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\nprint('x')\n", ""),
    "FileNotFoundError": ("try:\n    open('no_such_file')\nexcept FileNotFoundError:\n    print('x')\n", ""),
    "recursion limit": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\nprint(f(30000))\n",
        "",
    ),
    "default recursion limit": (
        "import sys\nprint(sys.getrecursionlimit())\ndef f(n):\n    return f(n + 1)\ntry:\n    f(0)\nexcept RecursionError:\n    print('deep')\n",
        "",
    ),
    "setrlimit of the stack": (
        "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\nprint('x')\n",
        "",
    ),
    "setrlimit and a thread": (
        "import resource, sys, threading\nresource.setrlimit(resource.RLIMIT_STACK, (2**28, -1))\nsys.setrecursionlimit(2**20)\nprint('x')\n",
        "",
    ),
    "4300 digits": ("try:\n    print(len(str(10**5000)))\nexcept ValueError:\n    print('too long')\n", ""),
    "more digits by choice": ("import sys\nsys.set_int_max_str_digits(0)\nprint(len(str(10**5000)))\n", ""),
    "big integers": ("print(pow(3, 10**5, 10**9 + 7), 2**200, -7 // 2, -7 % 3)\n", ""),
    "globals": ("x = 1\nprint(globals()['x'], __name__, vars().get('x'))\n", ""),
    "import __main__": ("import __main__\nx = 5\nprint(__main__.x)\n", ""),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n    x: int\n    y: int = 0\nprint(sorted([P(2), P(1, 5)]))\n",
        "",
    ),
    "future annotations": (
        "from __future__ import annotations\ndef f(x: list[int]) -> int:\n    return x[0]\nprint(f([4]), f.__annotations__)\n",
        "",
    ),
    "namedtuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\nprint(P(1, 2), P(1, 2)._asdict())\n",
        "",
    ),
    "enum": ("from enum import Enum\nclass C(Enum):\n    A = 1\nprint(C.A, C.A.name, repr(C.A))\n", ""),
    "pickle": ("import pickle\nclass A:\n    pass\na = A()\na.x = 3\nprint(pickle.loads(pickle.dumps(a)).x)\n", ""),
    "lru_cache": (
        "from functools import lru_cache\n@lru_cache(None)\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\nprint(f(90), f.cache_info().misses)\n",
        "",
    ),
    "match": ("match (1, [2, 3]):\n    case (a, [b, *c]):\n        print(a, b, c)\n", ""),
    "typing": ("from typing import List, Dict, Optional\nx: List[int] = [1]\nprint(x, __annotations__)\n", ""),
    "exec": ("exec('a = 5')\nprint(a)\n", ""),
    "inspect.getsource": ("import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))\n", ""),
    "traceback": (
        "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    print(traceback.format_exc().splitlines()[-1])\n",
        "",
    ),
    "traceback with lines": (
        "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    print('1 / 0' in traceback.format_exc())\n",
        "",
    ),
    "gc and weakref": (
        "import gc, weakref\nclass A: pass\na = A()\nr = weakref.ref(a)\ndel a\ngc.collect()\nprint(r())\n",
        "",
    ),
    "signal": (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *a: print('alarm'))\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nsignal.pause()\n",
        "",
    ),
    "time": ("import time\nt = time.perf_counter()\ntime.sleep(0.01)\nprint(time.perf_counter() - t >= 0.01)\n", ""),
    "os.cpu_count": ("import os\nprint(type(os.cpu_count()).__name__ in ('int', 'NoneType'), os.getpid() > 0)\n", ""),
    "seeded random": (
        "import random\nrandom.seed(5)\nprint(random.randint(1, 10**9), random.sample(range(100), 3))\n",
        "",
    ),
    "decimal": ("from decimal import Decimal, getcontext\ngetcontext().prec = 50\nprint(Decimal(1) / 7)\n", ""),
    "fractions": ("from fractions import Fraction\nprint(sum(Fraction(1, n) for n in range(1, 10)))\n", ""),
    "heapq": ("import heapq\nh = [3, 1, 2]\nheapq.heapify(h)\nprint([heapq.heappop(h) for _ in range(3)])\n", ""),
    "bisect": ("from bisect import *\nprint(bisect_left([1, 3, 5], 3), insort)\n".replace(", insort", ""), ""),
    "itertools": (
        "from itertools import *\nprint(list(accumulate([1, 2, 3])), list(pairwise('abc')), list(islice(count(), 3)))\n",
        "",
    ),
    "Counter": (
        "from collections import *\nprint(Counter('banana').most_common(), deque([1, 2], 1), OrderedDict(a=1), defaultdict(int))\n",
        "",
    ),
    "string": (
        "import string\nprint(string.ascii_lowercase, 'a-b'.translate(str.maketrans('', '', string.punctuation)))\n",
        "",
    ),
    "re": ("import re\nprint(re.sub(r'(\\w+) (\\w+)', r'\\2 \\1', 'hello world'), re.split(r'[,;]', 'a,b;c'))\n", ""),
    "datetime": (
        "from datetime import datetime, timedelta\nprint(datetime.strptime('2024-02-28', '%Y-%m-%d') + timedelta(days=2))\n",
        "",
    ),
    "calendar": ("import calendar\nprint(calendar.isleap(2024), calendar.monthrange(2024, 2))\n", ""),
    "json": ("import json\nprint(json.dumps({'b': [1, None], 'a': 'x'}, sort_keys=True), json.loads('[1.5]'))\n", ""),
    "csv": (
        "import csv, sys\nfor row in csv.reader(sys.stdin):\n    print(row)\ncsv.writer(sys.stdout).writerow([1, 'a,b'])\n",
        'x,"y,z"\n',
    ),
    "hashlib": ("import hashlib\nprint(hashlib.md5(b'a').hexdigest(), hashlib.sha256(b'a').hexdigest()[:8])\n", ""),
    "struct": ("import struct\nprint(struct.pack('<I', 5), struct.unpack('>H', b'\\x01\\x02'))\n", ""),
    "array": ("from array import array\na = array('i', [1, 2])\na.append(3)\nprint(a.tolist(), a.itemsize)\n", ""),
    "math": ("import math\nprint(math.gcd(12, 18), math.isqrt(99), math.comb(10, 3), math.inf, math.pi)\n", ""),
    "statistics": ("import statistics\nprint(statistics.median([3, 1, 2]), statistics.mode('aab'))\n", ""),
    "operator": (
        "from operator import itemgetter\nfrom functools import reduce, cmp_to_key\nprint(reduce(lambda a, b: a * b, [1, 2, 3]), sorted([(1, 2), (0, 3)], key=itemgetter(1)), sorted([3, 1], key=cmp_to_key(lambda a, b: a - b)))\n",
        "",
    ),
    "copy": ("import copy\na = [[1]]\nb = copy.deepcopy(a)\nb[0].append(2)\nprint(a, b)\n", ""),
    "textwrap": ("import textwrap\nprint(textwrap.fill('aaa bbb ccc', 7), textwrap.dedent('  x'))\n", ""),
    "base64 and zlib": ("import base64, zlib\nprint(base64.b64encode(b'abc'), zlib.crc32(b'abc'))\n", ""),
    "locale": ("import locale\nprint('x')\n", ""),
    "unittest": (
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(1, 1)\nunittest.main(exit=False)\nprint('x')\n",
        "",
    ),
    "doctest": (
        "import doctest\ndef f():\n    '''\n    >>> f()\n    1\n    '''\n    return 1\nprint(doctest.testmod())\n",
        "",
    ),
    "timeit": ("import timeit\nprint(timeit.timeit('1 + 1', number=10) >= 0)\n", ""),
    "contextlib": (
        "from contextlib import suppress, contextmanager\n@contextmanager\ndef c():\n    print('in')\n    yield\n    print('out')\nwith c(), suppress(KeyError):\n    {}[1]\n",
        "",
    ),
    "abc": (
        "from abc import ABC, abstractmethod\nclass A(ABC):\n    @abstractmethod\n    def f(self): ...\ntry:\n    A()\nexcept TypeError:\n    print('abstract')\n",
        "",
    ),
    "metaclass": (
        "class M(type):\n    def __new__(c, n, b, d):\n        return super().__new__(c, n.upper(), b, d)\nclass a(metaclass=M): pass\nprint(a.__name__)\n",
        "",
    ),
    "slots and super": (
        "class A:\n    __slots__ = ('x',)\n    def __init__(self): self.x = 1\nclass B(A):\n    def __init__(self):\n        super().__init__()\n        self.y = 2\nprint(B().x, B().y)\n",
        "",
    ),
    "nonlocal": (
        "def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n        return n\n    return g\ng = f()\ng()\nprint(g())\n",
        "",
    ),
    "bootstrap generator": (
        "from types import GeneratorType\ndef bootstrap(f, stack=[]):\n    def w(*a):\n        if stack: return f(*a)\n        to = f(*a)\n        while True:\n            if type(to) is GeneratorType:\n                stack.append(to)\n                to = next(to)\n            else:\n                stack.pop()\n                if not stack: break\n                to = stack[-1].send(to)\n        return to\n    return w\n@bootstrap\ndef f(n):\n    yield (0 if n == 0 else 1 + (yield f(n - 1)))\nprint(f(5000))\n",
        "",
    ),
    "FastIO": (
        "import os, sys\nfrom io import BytesIO, IOBase\nclass FastIO(IOBase):\n    newlines = 0\n    def __init__(self, file):\n        self._fd = file.fileno()\n        self.buffer = BytesIO()\n        self.writable = 'x' in file.mode or 'r' not in file.mode\n        self.write = self.buffer.write if self.writable else None\n    def readline(self):\n        while self.newlines == 0:\n            b = os.read(self._fd, max(os.fstat(self._fd).st_size, 8192))\n            self.newlines = b.count(b'\\n') + (not b)\n            ptr = self.buffer.tell()\n            self.buffer.seek(0, 2), self.buffer.write(b), self.buffer.seek(ptr)\n        self.newlines -= 1\n        return self.buffer.readline()\n    def flush(self):\n        if self.writable:\n            os.write(self._fd, self.buffer.getvalue())\n            self.buffer.truncate(0), self.buffer.seek(0)\nclass IOWrapper(IOBase):\n    def __init__(self, file):\n        self.buffer = FastIO(file)\n        self.flush = self.buffer.flush\n        self.writable = self.buffer.writable\n        self.write = lambda s: self.buffer.write(s.encode('ascii'))\n        self.readline = lambda: self.buffer.readline().decode('ascii')\nsys.stdin, sys.stdout = IOWrapper(sys.stdin), IOWrapper(sys.stdout)\ninput = lambda: sys.stdin.readline().rstrip('\\r\\n')\nn = int(input())\nprint(sum(map(int, input().split())))\n",
        SUM,
    ),
    "debug function": ("import sys\ndef dbg(*a):\n    print(*a, file=sys.stderr)\ndbg('here')\nprint('x')\n", ""),
    "sieve": (
        "n = 30000\ns = bytearray([1]) * (n + 1)\nfor i in range(2, int(n**0.5) + 1):\n    if s[i]: s[i*i::i] = bytes(len(range(i*i, n + 1, i)))\nprint(sum(s) - 2)\n",
        "",
    ),
    "memory of 200 MB": ("a = [0] * 25_000_000\nprint(len(a))\n", ""),
    "MemoryError caught": ("try:\n    a = [0] * 10**12\nexcept MemoryError:\n    print('no')\n", ""),
    "tempfile module": ("import tempfile\nprint(callable(tempfile.mkdtemp))\n", ""),
    "platform": (
        "import platform, sys\nprint(platform.python_implementation(), sys.version_info[:2] >= (3, 11))\n",
        "",
    ),
    "builtins": (
        "import builtins\nprint(builtins.sum([1]), __builtins__ is builtins, hasattr(builtins, 'exit'))\n",
        "",
    ),
    "help and copyright": ("print(callable(exit), callable(quit), callable(print))\n", ""),
    "breakpoint off": ("import os\nos.environ['PYTHONBREAKPOINT'] = '0'\nbreakpoint()\nprint('x')\n", ""),
    "string module tricks": ("print(*map(chr, range(97, 100)), ord('a'), 'abc'.center(9, '*'), 'a'.zfill(3))\n", ""),
    "ternary and chained": ("x = int(input())\nprint('YES' if 1 < x < 5 else 'NO')\n", "3\n"),
    "matrix": ("m = [list(map(int, line.split())) for line in open(0)]\nprint(list(zip(*m)))\n", "1 2\n3 4\n"),
    "graph BFS": (
        "from collections import deque, defaultdict\ng = defaultdict(list)\nfor a, b in [(1, 2), (2, 3)]:\n    g[a].append(b)\nq, seen = deque([1]), {1}\nwhile q:\n    for v in g[q.popleft()]:\n        if v not in seen:\n            seen.add(v); q.append(v)\nprint(sorted(seen))\n",
        "",
    ),
    "sys.setswitchinterval": ("import sys\nsys.setswitchinterval(1)\nprint('x')\n", ""),
    "faulthandler": ("import faulthandler\nfaulthandler.enable()\nprint('x')\n", ""),
    "tracemalloc": ("import tracemalloc\ntracemalloc.start()\nprint('x')\n", ""),
    "sys.settrace": ("import sys\nsys.settrace(None)\nprint('x')\n", ""),
    "input after close of a copy": ("import os\nf = os.fdopen(os.dup(0))\nprint(f.readline())\nf.close()\n", SUM),
    "read twice": ("import sys\nprint(repr(sys.stdin.read()), repr(sys.stdin.read()))\n", "a\n"),
    "readline at the end": ("import sys\nprint([sys.stdin.readline() for _ in range(3)])\n", "a\n"),
    "bare raise": (
        "try:\n    try:\n        {}['k']\n    except KeyError:\n        raise\nexcept KeyError as e:\n    print(repr(e))\n",
        "",
    ),
    "exception group": (
        "try:\n    raise ExceptionGroup('g', [ValueError(1)])\nexcept* ValueError as e:\n    print(len(e.exceptions))\n",
        "",
    ),
    "bytes input": ("import sys\na = sys.stdin.buffer.readline().strip()\nprint(a.decode(), a[0])\n", "xyz\n"),
    "tab separated": ("print(input().split('\\t'))\n", "a\tb c\n"),
    "getpass is no terminal": (
        "import os\ntry:\n    print(os.get_terminal_size())\nexcept OSError:\n    print('none')\n",
        "",
    ),
}
