// Names that common headers define as macros, as they define them. No header of the library may use one: neither where the
// macros come first, nor where they come later and a program names what the library declares.
#pragma once

// Qt, unless QT_NO_KEYWORDS
#undef slots
#define slots
#undef signals
#define signals
#undef emit
#define emit
#undef foreach
#define foreach(variable, container) for (variable : container)
#undef forever
#define forever for (;;)
#undef Q_SLOTS
#define Q_SLOTS
#undef Q_SIGNALS
#define Q_SIGNALS
#undef Q_EMIT
#define Q_EMIT

// X.h, Xlib.h
#undef Status
#define Status int
#undef None
#define None 0L
#undef Bool
#define Bool int
#undef Success
#define Success 0
#undef True
#define True 1
#undef False
#define False 0
#undef Always
#define Always 2
#undef Complex
#define Complex 0
#undef Nonconvex
#define Nonconvex 1
#undef Convex
#define Convex 2
#undef Above
#define Above 0
#undef Below
#define Below 1
#undef Opposite
#define Opposite 4
#undef Absolute
#define Absolute 0
#undef Unsorted
#define Unsorted 0
#undef YSorted
#define YSorted 1
#undef Expose
#define Expose 12
#undef KeyPress
#define KeyPress 2
#undef FocusIn
#define FocusIn 9
#undef FocusOut
#define FocusOut 10
#undef GrayScale
#define GrayScale 1
#undef CurrentTime
#define CurrentTime 0L
#undef Button1
#define Button1 1

// windows.h and what it includes
#undef min
#define min(a, b) (((a) < (b)) ? (a) : (b))
#undef max
#define max(a, b) (((a) > (b)) ? (a) : (b))
#undef small
#define small char
#undef near
#define near
#undef far
#define far
#undef interface
#define interface struct
#undef hyper
#define hyper __int64
#undef IN
#define IN
#undef OUT
#define OUT
#undef OPTIONAL
#define OPTIONAL
#undef ERROR
#define ERROR 0
#undef DELETE
#define DELETE (0x00010000L)
#undef CONST
#define CONST const
#undef VOID
#define VOID void
#undef TRUE
#define TRUE 1
#undef FALSE
#define FALSE 0
#undef STRICT
#define STRICT 1
#undef IGNORE
#define IGNORE 0
#undef INFINITE
#define INFINITE 0xffffffff
#undef RELATIVE
#define RELATIVE 2
#undef ABSOLUTE
#define ABSOLUTE 1
#undef NO_ERROR
#define NO_ERROR 0L
#undef pascal
#define pascal __stdcall
#undef cdecl
#define cdecl
#undef GetObject
#define GetObject GetObjectA
#undef CreateWindow
#define CreateWindow CreateWindowA
#undef rad1
#define rad1 0x0420
#undef DIFFERENCE
#define DIFFERENCE 11
#undef TRANSPARENT
#define TRANSPARENT 1
#undef OPAQUE
#define OPAQUE 2
#undef UNKNOWN
#define UNKNOWN 0

// curses.h
#undef OK
#define OK (0)
#undef ERR
#define ERR (-1)
#undef move
#define move(y, x) wmove(stdscr, (y), (x))
#undef clear
#define clear() wclear(stdscr)
#undef refresh
#define refresh() wrefresh(stdscr)
#undef erase
#define erase() werase(stdscr)
#undef timeout
#define timeout(delay) wtimeout(stdscr, (delay))
#undef addch
#define addch(c) waddch(stdscr, (c))
#undef border
#define border(a, b, c, d, e, f, g, h) wborder(stdscr, a, b, c, d, e, f, g, h)
#undef box
#define box(w, v, h) wborder(w, v, v, h, h, 0, 0, 0, 0)
#undef getch
#define getch() wgetch(stdscr)
#undef inch
#define inch() winch(stdscr)
#undef insch
#define insch(c) winsch(stdscr, (c))
#undef instr
#define instr(s) winstr(stdscr, (s))
#undef scroll
#define scroll(w) wscrl((w), 1)
#undef standout
#define standout() wstandout(stdscr)
#undef COLORS
#define COLORS 8
#undef LINES
#define LINES 24
#undef COLS
#define COLS 80

// math.h before C99, complex.h, sys/sysmacros.h, strings.h, compilers that define their system
#undef DOMAIN
#define DOMAIN 1
#undef SING
#define SING 2
#undef OVERFLOW
#define OVERFLOW 3
#undef UNDERFLOW
#define UNDERFLOW 4
#undef TLOSS
#define TLOSS 5
#undef PLOSS
#define PLOSS 6
#undef I
#define I 1.0fi
#undef complex
#define complex _Complex
#undef major
#define major(dev) gnu_dev_major(dev)
#undef minor
#define minor(dev) gnu_dev_minor(dev)
#undef makedev
#define makedev(a, b) gnu_dev_makedev(a, b)
#undef linux
#define linux 1
#undef unix
#define unix 1

// AssertMacros.h; logging and test libraries
#undef check
#define check(assertion)
#undef check_noerr
#define check_noerr(error)
#undef verify
#define verify(assertion)
#undef verify_noerr
#define verify_noerr(error)
#undef require
#define require(assertion, label)
#undef require_noerr
#define require_noerr(error, label)
#undef CHECK
#define CHECK(x)
#undef LOG
#define LOG(x)
#undef REQUIRE
#define REQUIRE(x)
#undef SECTION
#define SECTION(x)
#undef INFO
#define INFO(x)
#undef FAIL
#define FAIL(x)
#undef DEBUG
#define DEBUG
#undef VERSION
#define VERSION "1"
