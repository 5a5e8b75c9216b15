/* Lanes: pieces of answers that repeat the last one but for their text, off the socket to a time without Python.
 *
 * What may live here: the reading of sockets that an epoll descriptor finds readable, and the recognition of whole HTTP
 * chunks that each hold one event with known bytes around its text. What such an event means was understood in Python,
 * when the lane was laid (protocol/repeats.py says why that is exact). A read that holds anything else, half an event
 * say, goes to Python as it came.
 *
 * Reading costs more than all else here, and several pieces of a stream cost little more than one. So what has come may
 * stay unread until some more has, where its time is known without: an epoll descriptor reports sockets in the order in
 * which bytes reached them, so what is left unread came between those before and behind it that were read, by their
 * stamps. Which are read is chosen so that this is close enough (`lanes_settle`).
 *
 * All is under the interpreter's lock: nothing here waits.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define BUFFER_BYTES 65536
#define MOST_EVENTS 256
#define MOST_SIZE_DIGITS 7
#define AT_ONCE_S 2e-5
#define MOST_DESCRIPTORS 100000000
#define TIMESTAMPNS 35 /* as receivestamps.py asks for them */
#define LEAST_READS 16 /* before what is due has its turn, which may come again and again */
#define MOST_UNREAD 3  /* pieces of a stream: a server's kernel may have ten on the way before it waits for word */
#define UNREAD_S 0.05  /* for so long at most */
#define GROUPS 4       /* two reads in a row that held one */
#define VERSION 5      /* of what lanes.py knows */

/* Not Py_RETURN_NONE: by Python 3.12's headers that counts no reference, which 3.11, for which this is built too, counts. */
static PyObject *none(void) { return Py_NewRef(Py_None); }

/* An array of times that grows. */
typedef struct {
    double *values;
    Py_ssize_t count, room;
} Times;

static int times_add(Times *self, double value)
{
    if (self->count == self->room) {
        Py_ssize_t room = self->room ? 2 * self->room : 64;
        double *values = PyMem_Realloc(self->values, room * sizeof(double));
        if (values == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->values = values;
        self->room = room;
    }
    self->values[self->count++] = value;
    return 0;
}

static PyObject *times_take(Times *self)
{
    const char *bytes = self->count ? (const char *)self->values : "";
    PyObject *taken = PyBytes_FromStringAndSize(bytes, self->count * (Py_ssize_t)sizeof(double));
    if (taken != NULL)
        self->count = 0;
    return taken;
}

/* Lane: one answer's pieces on one connection. */

typedef struct {
    PyObject_HEAD
    PyObject *before_bytes, *after_bytes; /* which own what these point to */
    const char *before, *after;
    Py_ssize_t before_size, after_size;
    Times held;       /* when the pieces came that Python has not taken yet */
    Py_ssize_t bytes; /* of the body, in these pieces */
    Py_ssize_t left;  /* how many more it takes */
    Py_ssize_t patience; /* so many of the next may stay unread for a while */
    int proven, hasty;   /* it took a piece that came alone; pieces come in groups, and none stays unread any more */
    int groups;          /* reads that held some lately, twice, less other reads */
    int unread;          /* how many are */
    int overtaken;       /* its last read may have held what is still to be reported */
    double unread_s[MOST_UNREAD]; /* when they came */
    double unread_after_s, unread_since_s; /* the first came after the one and was seen at the other */
    double since_s;   /* no byte that is still to be read came before that */
    double token_s;   /* when the last piece came */
    double drained_s; /* when the last read was over */
} Lane;

static int lane_init(PyObject *object, PyObject *arguments, PyObject *named)
{
    Lane *self = (Lane *)object;
    static char *names[] = {"before", "after", "most", "since_s", "token_s", "drained_s", "patience", NULL};
    PyObject *before, *after;
    if (self->before_bytes != NULL) {
        PyErr_SetString(PyExc_TypeError, "a lane is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "SSnddd|n", names, &before, &after, &self->left, &self->since_s,
                                     &self->token_s, &self->drained_s, &self->patience))
        return -1;
    self->before_bytes = Py_NewRef(before);
    self->after_bytes = Py_NewRef(after);
    self->before = PyBytes_AsString(before);
    self->after = PyBytes_AsString(after);
    self->before_size = PyBytes_Size(before);
    self->after_size = PyBytes_Size(after);
    return 0;
}

static void lane_dealloc(PyObject *object)
{
    Lane *self = (Lane *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->before_bytes);
    Py_XDECREF(self->after_bytes);
    PyMem_Free(self->held.values);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The number behind \u; -1 where there is none. */
static int escaped(const char *at, const char *end)
{
    int number = 0;
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
        return -1;
    for (int place = 2; place < 6; place++) {
        int digit = hex_digit(at[place]);
        if (digit < 0)
            return -1;
        number = number * 16 + digit;
    }
    return number;
}

/* Whether bytes are the inside of a string of JSON, without half of a surrogate pair, which some readers refuse. */
static int is_text(const char *at, const char *end)
{
    for (; at < end; at++) {
        unsigned char c = (unsigned char)*at;
        if (c < 0x20 || c == '"')
            return 0;
        if (c != '\\')
            continue;
        int number = escaped(at, end);
        if (number >= 0xD800 && number < 0xDC00) {
            at += 6;
            int second = escaped(at, end);
            if (second < 0xDC00 || second > 0xDFFF)
                return 0;
        } else if (number >= 0xDC00 && number <= 0xDFFF) {
            return 0;
        }
        if (number >= 0)
            at += 5;
        else if (++at == end || *at == '\0' || strchr("\"\\/bfnrt", *at) == NULL)
            return 0;
    }
    return 1;
}

/* The size of the first chunk of HTTP, with its framing, and that of its body; 0 where it is no whole one, or the last. */
static Py_ssize_t chunk_size(const char *data, Py_ssize_t size, Py_ssize_t *body)
{
    Py_ssize_t digits = 0;
    *body = 0;
    while (digits < size && digits < MOST_SIZE_DIGITS) {
        int digit = hex_digit(data[digits]);
        if (digit < 0)
            break;
        *body = *body * 16 + digit;
        digits++;
    }
    Py_ssize_t whole = digits + 2 + *body + 2;
    if (digits == 0 || *body == 0 || size < whole)
        return 0;
    return memcmp(data + digits, "\r\n", 2) || memcmp(data + whole - 2, "\r\n", 2) ? 0 : whole;
}

/* The size of the first chunk of HTTP, with its framing, where it repeats the lane's event; 0 where not. */
static Py_ssize_t lane_match(const Lane *self, const char *data, Py_ssize_t size, Py_ssize_t *body)
{
    Py_ssize_t whole = self->before == NULL ? 0 : chunk_size(data, size, body);
    if (whole == 0)
        return 0;
    const char *end = data + whole - 2, *start = end - *body;
    if (*body <= self->before_size + self->after_size) /* an empty text is no token */
        return 0;
    if (memcmp(start, self->before, self->before_size) || memcmp(end - self->after_size, self->after, self->after_size))
        return 0;
    return is_text(start + self->before_size, end - self->after_size) ? whole : 0;
}

/* How many chunks at the beginning of the bytes repeat the lane's event, and how many bytes they are, with their framing
 * and without. */
static Py_ssize_t lane_count(const Lane *self, const char *data, Py_ssize_t size, Py_ssize_t *whole, Py_ssize_t *bodies)
{
    Py_ssize_t count = 0, next, body;
    *whole = *bodies = 0;
    while (*whole < size && (next = lane_match(self, data + *whole, size - *whole, &body)) > 0) {
        count++;
        *whole += next;
        *bodies += body;
    }
    return count;
}

static PyObject *lane_take(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Lane *self = (Lane *)object;
    PyObject *times = times_take(&self->held);
    if (times == NULL)
        return NULL;
    Py_ssize_t bytes = self->bytes;
    self->bytes = 0;
    return Py_BuildValue("Nn", times, bytes);
}

static PyMethodDef lane_methods[] = {{"take", lane_take, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};

static PyMemberDef lane_members[] = {
    {"held", T_PYSSIZET, offsetof(Lane, held.count), READONLY, NULL},
    {"hasty", T_INT, offsetof(Lane, hasty), READONLY, NULL},
    {"unread", T_INT, offsetof(Lane, unread), READONLY, NULL},
    {"since_s", T_DOUBLE, offsetof(Lane, since_s), READONLY, NULL},
    {"token_s", T_DOUBLE, offsetof(Lane, token_s), READONLY, NULL},
    {"drained_s", T_DOUBLE, offsetof(Lane, drained_s), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_init, lane_init}, {Py_tp_dealloc, lane_dealloc}, {Py_tp_methods, lane_methods},
    {Py_tp_members, lane_members}, {Py_tp_new, PyType_GenericNew}, {0, NULL},
};

static PyType_Spec lane_spec = {"fineserve_shapes.client._lanes.Lane", sizeof(Lane), 0, Py_TPFLAGS_DEFAULT, lane_slots};

/* Lanes: the lanes of one epoll descriptor. */

typedef struct {
    PyObject *lane_type;
} State;

/* A lane with something unread, and since when. */
typedef struct {
    int fd;
    double since_s;
} Unread;

typedef struct {
    PyObject_HEAD
    int epoll;
    Lane **by_fd;
    int room;
    Times delays_s;   /* of reads: from when the last piece came to when it had been read */
    Times unsure_s;   /* of reads with pieces that were not told apart: how long the first may have waited for the last */
    Times between_s;  /* of pieces that were unread for a while: how far apart those are that they came between */
    double emptied_s; /* when all sockets were last known to be empty */
    double close_s;   /* so far apart those may be */
    double gap_s, shorter, longer; /* a running quantile of the gaps between pieces, and its steps */
    struct epoll_event found[MOST_EVENTS]; /* what was reported, in the order in which it came, */
    int from, count;               /* from where it is still to be served */
    double reported_s, found_s;    /* when the report was asked for, and when it was there */
    double look_s;                 /* how long before that the last report was asked for */
    double after_s;                /* what is still to be served came after that */
    Unread *unread;                /* in order, a ring */
    int unread_first, unread_count, unread_room;
} Lanes;

static int lanes_init(PyObject *object, PyObject *arguments, PyObject *named)
{
    Lanes *self = (Lanes *)object;
    static char *names[] = {"epoll", "shorter", "longer", NULL};
    return PyArg_ParseTupleAndKeywords(arguments, named, "idd", names, &self->epoll, &self->shorter, &self->longer) ? 0 : -1;
}

static void lanes_dealloc(PyObject *object)
{
    Lanes *self = (Lanes *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (int fd = 0; fd < self->room; fd++)
        Py_XDECREF((PyObject *)self->by_fd[fd]);
    PyMem_Free(self->by_fd);
    PyMem_Free(self->delays_s.values);
    PyMem_Free(self->unsure_s.values);
    PyMem_Free(self->between_s.values);
    PyMem_Free(self->unread);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* From now on the descriptor is reported once for what comes to it (edge), or as long as there is something to read. What
 * is there now is reported again. */
static void lanes_report(const Lanes *self, int fd, int edge)
{
    struct epoll_event wanted = {.events = EPOLLIN | (edge ? EPOLLET | EPOLLRDHUP : 0), .data.fd = fd};
    epoll_ctl(self->epoll, EPOLL_CTL_MOD, fd, &wanted); /* fails where it is not looked at */
}

static PyObject *lanes_lay(PyObject *object, PyObject *arguments)
{
    Lanes *self = (Lanes *)object;
    int fd;
    PyObject *lane;
    State *state = PyType_GetModuleState(Py_TYPE(object));
    if (state == NULL || !PyArg_ParseTuple(arguments, "iO!", &fd, (PyTypeObject *)state->lane_type, &lane))
        return NULL;
    if (fd < 0 || fd > MOST_DESCRIPTORS)
        return PyErr_Format(PyExc_ValueError, "no descriptor: %d", fd);
    if (fd >= self->room) {
        int room = 2 * fd + 64;
        Lane **by_fd = PyMem_Realloc(self->by_fd, room * sizeof(Lane *));
        if (by_fd == NULL)
            return PyErr_NoMemory();
        memset(by_fd + self->room, 0, (room - self->room) * sizeof(Lane *));
        self->by_fd = by_fd;
        self->room = room;
    }
    Lane *before = self->by_fd[fd];
    self->by_fd[fd] = (Lane *)Py_NewRef(lane);
    if (before == NULL || before->unread)
        lanes_report(self, fd, 1);
    else
        ((Lane *)lane)->overtaken |= before->overtaken; /* its report is still to come */
    Py_XDECREF((PyObject *)before);
    return none();
}

static PyObject *lanes_lift(PyObject *object, PyObject *arguments)
{
    Lanes *self = (Lanes *)object;
    int fd;
    if (!PyArg_ParseTuple(arguments, "i", &fd))
        return NULL;
    if (fd >= 0 && fd < self->room) {
        Lane *before = self->by_fd[fd];
        self->by_fd[fd] = NULL;
        if (before != NULL)
            lanes_report(self, fd, 0);
        Py_XDECREF((PyObject *)before);
    }
    return none();
}

static double seconds(const struct timespec *at) { return (double)at->tv_sec + 1e-9 * (double)at->tv_nsec; }

/* Now, of CLOCK_MONOTONIC, which is Python's perf_counter; and the wall clock some microseconds before at most. */
static double both_clocks(struct timespec *wall)
{
    struct timespec before, now;
    for (int again = 0; again < 3; again++) {
        clock_gettime(CLOCK_MONOTONIC, &before);
        clock_gettime(CLOCK_REALTIME, wall);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (seconds(&now) - seconds(&before) < AT_ONCE_S) /* else a pause may lie between them */
            break;
    }
    return seconds(&now);
}

static double monotonic_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return seconds(&now);
}

/* When what was read came, by its stamp where it has one; `now_s` becomes the time after the read. */
static double came_s(struct msghdr *message, double since_s, double *now_s)
{
    struct timespec wall, stamp;
    *now_s = both_clocks(&wall);
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == TIMESTAMPNS &&
            part->cmsg_len == CMSG_LEN(sizeof(stamp))) {
            memcpy(&stamp, CMSG_DATA(part), sizeof(stamp));
            double age_s = (double)(wall.tv_sec - stamp.tv_sec) + 1e-9 * (double)(wall.tv_nsec - stamp.tv_nsec);
            double at_s = *now_s - (age_s > 0 ? age_s : 0);
            return at_s > since_s ? at_s : since_s;
        }
    }
    return *now_s;
}

/* A read of so many pieces of a lane. */
static int lanes_log(Lanes *self, const Lane *lane, double at_s, double now_s, Py_ssize_t pieces)
{
    if (times_add(&self->delays_s, now_s - at_s) < 0)
        return -1;
    double gap_s = (at_s - lane->token_s) / (double)pieces;
    if (self->gap_s == 0)
        self->gap_s = gap_s;
    else
        self->gap_s *= gap_s < self->gap_s ? self->shorter : self->longer;
    return 0;
}

/* What a read is known to hold: when its pieces came, by the order in which they were reported. */
typedef struct {
    double at_s, now_s;       /* when the last of it came, by its stamp, and when it had been read */
    double empty_s;           /* it all came after that */
    Py_ssize_t known;         /* so many of the first came at `came_s`, the others at `at_s` */
    const double *came_s;
    Py_ssize_t earlier;       /* so often something was reported before the last of it */
} Arrivals;

/* Of a read before whose last piece something was reported `earlier` times: where it holds fewer, another read had the first. */
static Arrivals lane_arrivals(const Lane *lane, const char *data, Py_ssize_t size, Py_ssize_t earlier, double at_s,
                              double now_s, double empty_s)
{
    Py_ssize_t chunks = 0, body;
    while (size > 0 && earlier > 0) {
        Py_ssize_t whole = chunk_size(data, size, &body);
        chunks++;
        if (whole == 0)
            break;
        data += whole;
        size -= whole;
    }
    Py_ssize_t known = earlier < chunks - 1 ? earlier : chunks > 0 ? chunks - 1 : 0;
    return (Arrivals){at_s, now_s, empty_s, known, lane->unread_s + (earlier - known), earlier};
}

static double arrival_s(const Arrivals *self, Py_ssize_t number, double after_s)
{
    double came_s = number < self->known && self->came_s[number] < self->at_s ? self->came_s[number] : self->at_s;
    return came_s > after_s ? came_s : after_s;
}

/* Take of what came what is the lane's; how many bytes that are, and how many pieces; -1: an exception is set.
 *
 * What is Python's ends the lane: Python may come to it later, and what comes next must not overtake it. Pieces that stand
 * before that go with it, but for those that were unread for a while: they have times of their own. */
static Py_ssize_t lanes_take(Lanes *self, Lane *lane, const char *data, Py_ssize_t size, const Arrivals *arrivals,
                             Py_ssize_t *pieces)
{
    Py_ssize_t whole, bodies;
    int alone = lane->unread == 0;
    *pieces = lane_count(lane, data, size, &whole, &bodies);
    if (*pieces == 0 || *pieces > lane->left || (whole < size && alone)) {
        lane->left = *pieces = 0;
        return 0;
    }
    if (lanes_log(self, lane, arrivals->at_s, arrivals->now_s, *pieces) < 0)
        return -1;
    int together = *pieces > arrivals->earlier + (whole == size); /* more than were reported: not all times are sure */
    if (together) {
        double unsure_s = arrivals->at_s - arrivals->empty_s;
        if (times_add(&self->unsure_s, unsure_s > 0 ? unsure_s : 0) < 0)
            return -1;
    }
    for (Py_ssize_t number = 0; number < *pieces; number++) {
        lane->token_s = arrival_s(arrivals, number, lane->token_s);
        if (times_add(&lane->held, lane->token_s) < 0)
            return -1;
    }
    lane->proven |= !together;
    if (!together)
        lane->groups -= lane->groups > 0;
    else if (self->look_s < self->gap_s / 2) /* else they may have waited for each other here */
        lane->groups += 2;
    lane->hasty |= lane->groups >= GROUPS;
    lane->left = whole == size ? lane->left - *pieces : 0;
    lane->patience -= *pieces;
    lane->bytes += bodies;
    return whole;
}

/* Leave what is not the lane's to Python, each chunk that has a time of its own by itself. */
static int lanes_hand_over(int fd, const char *data, Py_ssize_t size, const Arrivals *arrivals, Py_ssize_t number,
                           double after_s, PyObject *others)
{
    double empty_s = arrivals->empty_s;
    do {
        Py_ssize_t body, whole = number < arrivals->known ? chunk_size(data, size, &body) : 0;
        if (whole == 0)
            whole = size;
        double came_s = after_s = whole == size ? arrivals->at_s : arrival_s(arrivals, number, after_s);
        if (whole < size)
            empty_s = came_s;
        PyObject *read = PyBytes_FromStringAndSize(data, whole);
        PyObject *other = read == NULL ? NULL : Py_BuildValue("iNddd", fd, read, came_s, arrivals->now_s, empty_s);
        int failed = other == NULL || PyList_Append(others, other) < 0;
        Py_XDECREF(other);
        if (failed)
            return -1;
        number++;
        data += whole;
        size -= whole;
    } while (size > 0);
    return 0;
}

/* Read one socket. `reported`: something came that has not been counted as unread; `ends`: there is an end behind what
 * there is to read. What is Python's goes to `others`; -1: an exception is set. `bound_s`: when it came, if that is when it
 * was reported, too; else it stays as it is. */
static int lanes_read(Lanes *self, int fd, int reported, int ends, Lane *lane, PyObject *others, double *bound_s)
{
    char buffer[BUFFER_BYTES]; /* making an object can run anything */
    char control[CMSG_SPACE(sizeof(struct timespec))];
    struct iovec part = {buffer, BUFFER_BYTES};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t size;
    do
        size = recvmsg(fd, &message, MSG_DONTWAIT);
    while (size < 0 && errno == EINTR);
    if (size < 0) {
        lane->unread = lane->overtaken = 0;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        lane->left = 0;
        PyObject *other = Py_BuildValue("iiddd", fd, errno, lane->since_s, monotonic_s(), lane->drained_s);
        int failed = other == NULL || PyList_Append(others, other) < 0;
        Py_XDECREF(other);
        return failed ? -1 : 0;
    }
    double now_s, at_s = came_s(&message, lane->since_s, &now_s);
    double empty_s = lane->drained_s > self->emptied_s ? lane->drained_s : self->emptied_s;
    Py_ssize_t earlier = lane->unread - (lane->unread > 0 && !reported), pieces;
    if (lane->unread)
        empty_s = lane->unread_after_s;
    Arrivals arrivals = lane_arrivals(lane, buffer, size, earlier, at_s, now_s, empty_s);
    if (size == BUFFER_BYTES || (ends && size > 0)) /* what is left has been reported */
        lanes_report(self, fd, 1);
    Py_ssize_t taken = lanes_take(self, lane, buffer, size, &arrivals, &pieces);
    lane->unread = 0;
    lane->since_s = at_s;
    lane->drained_s = now_s;
    lane->overtaken = at_s > self->reported_s;
    if (taken < 0)
        return -1;
    if (taken < size || size == 0) {
        lane->hasty |= earlier > 0; /* what it cannot take is dearer together, and may come again */
        return lanes_hand_over(fd, buffer + taken, size - taken, &arrivals, pieces, lane->token_s, others);
    }
    if (pieces == earlier + 1 && reported && !lane->overtaken)
        *bound_s = at_s; /* of several that came between two looks the first was reported and the last has the stamp */
    return 0;
}

/* Bytes that were read before this lane was laid, and waited: whether they were its own. */
static PyObject *lanes_offer(PyObject *object, PyObject *arguments)
{
    Lanes *self = (Lanes *)object;
    int fd;
    const char *data;
    Py_ssize_t size;
    double at_s, read_s, empty_s;
    if (!PyArg_ParseTuple(arguments, "iy#ddd", &fd, &data, &size, &at_s, &read_s, &empty_s))
        return NULL;
    Lane *lane = fd >= 0 && fd < self->room ? self->by_fd[fd] : NULL;
    Arrivals arrivals = {.at_s = at_s, .now_s = read_s, .empty_s = empty_s};
    Py_ssize_t pieces, taken = lane == NULL ? 0 : lanes_take(self, lane, data, size, &arrivals, &pieces);
    return taken < 0 ? NULL : PyBool_FromLong(taken > 0);
}

/* Serve a descriptor: read it, or name it where it has no lane. What is Python's goes to `others`. -1: an exception is set. */
static int lanes_serve(Lanes *self, int fd, int reported, int ends, PyObject *others, double *bound_s)
{
    Lane *lane = fd < self->room ? self->by_fd[fd] : NULL;
    int failed;
    if (lane == NULL) {
        PyObject *other = Py_BuildValue("iOiii", fd, Py_None, 0, 0, 0);
        failed = other == NULL || PyList_Append(others, other) < 0 ? -1 : 0;
        Py_XDECREF(other);
    } else { /* making an object can run anything, the end of this lane included */
        Py_INCREF((PyObject *)lane);
        failed = lanes_read(self, fd, reported, ends, lane, others, bound_s);
        Py_DECREF((PyObject *)lane);
    }
    return failed;
}

/* The lane of a descriptor, if what was reported of it may stay unread; else NULL. */
static Lane *lanes_patient(const Lanes *self, const struct epoll_event *found)
{
    int fd = found->data.fd;
    Lane *lane = fd < self->room ? self->by_fd[fd] : NULL;
    if (lane == NULL || found->events != EPOLLIN || self->close_s <= 0)
        return NULL;
    if (lane->before == NULL || lane->left == 0 || !lane->proven || lane->hasty || lane->overtaken)
        return NULL;
    return lane->unread < MOST_UNREAD && lane->unread < lane->patience ? lane : NULL;
}

/* Remember that a lane has something unread from now on. */
static int lanes_put_unread(Lanes *self, int fd, double since_s)
{
    if (self->unread_count == self->unread_room) {
        int room = self->unread_room ? 2 * self->unread_room : 256;
        Unread *unread = PyMem_Malloc(room * sizeof(Unread));
        if (unread == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (int number = 0; number < self->unread_count; number++)
            unread[number] = self->unread[(self->unread_first + number) % self->unread_room];
        PyMem_Free(self->unread);
        self->unread = unread;
        self->unread_first = 0;
        self->unread_room = room;
    }
    self->unread[(self->unread_first + self->unread_count++) % self->unread_room] = (Unread){fd, since_s};
    return 0;
}

/* Read what has been unread for too long. */
static int lanes_read_old(Lanes *self, PyObject *others, double now_s, double until_s)
{
    for (int reads = 0; self->unread_count > 0;) {
        Unread oldest = self->unread[self->unread_first];
        if (oldest.since_s + UNREAD_S > now_s || (reads >= LEAST_READS && monotonic_s() >= until_s))
            break;
        self->unread_first = (self->unread_first + 1) % self->unread_room;
        self->unread_count--;
        Lane *lane = oldest.fd < self->room ? self->by_fd[oldest.fd] : NULL;
        double bound_s;
        if (lane == NULL || lane->unread == 0 || lane->unread_since_s != oldest.since_s)
            continue; /* it was read since */
        reads++;
        if (lanes_serve(self, oldest.fd, 0, 0, others, &bound_s) < 0)
            return -1;
    }
    return 0;
}

#define UNREAD 0.0       /* in place of when it came, of what was reported and is left unread */
#define UNBOUND INFINITY /* and of what was read, and is no bound for others */

/* Leave unread what of [first, last) is: it came between two bounds, and has its times evenly between them. */
static int lanes_leave(Lanes *self, const double *came_s, int first, int last, double after_s, double before_s,
                       PyObject *others)
{
    int number = 0, count = 0;
    for (int at = first; at < last; at++)
        count += came_s[at] == UNREAD;
    for (int at = first; at < last; at++) {
        int fd = self->found[at].data.fd;
        if (came_s[at] != UNREAD)
            continue;
        number++;
        Lane *lane = lanes_patient(self, &self->found[at]);
        if (lane == NULL) { /* no longer */
            double bound_s;
            if (lanes_serve(self, fd, 1, 0, others, &bound_s) < 0)
                return -1;
            continue;
        }
        if (lane->unread == 0) {
            lane->unread_after_s = after_s;
            lane->unread_since_s = self->found_s;
            if (lanes_put_unread(self, fd, self->found_s) < 0)
                return -1;
        }
        lane->unread_s[lane->unread++] = after_s + (before_s - after_s) * number / (count + 1);
        if (times_add(&self->between_s, before_s - after_s) < 0)
            return -1;
    }
    return 0;
}

/* Of what of [first, last) is unread, read the middle one between two bounds, again and again, until the bounds are close
 * or nothing is left between them. */
static int lanes_settle(Lanes *self, double *came_s, int first, int last, PyObject *others)
{
    while (first < last) {
        int end = first, unread = 0; /* the next bound, and how many are unread before it */
        while (end < last && !(came_s[end] >= self->after_s && came_s[end] != UNBOUND))
            unread += came_s[end++] == UNREAD;
        double before_s = end < last ? came_s[end] : self->found_s;
        if (unread > 0 && before_s - self->after_s > self->close_s) {
            int middle = first;
            for (int before = unread / 2; came_s[middle] != UNREAD || before-- > 0;)
                middle++;
            came_s[middle] = UNBOUND;
            if (lanes_serve(self, self->found[middle].data.fd, 1, 0, others, &came_s[middle]) < 0)
                return -1;
            continue;
        }
        if (unread > 0 && lanes_leave(self, came_s, first, end, self->after_s, before_s, others) < 0)
            return -1;
        if (end < last)
            self->after_s = before_s;
        first = end + 1;
    }
    return 0;
}

/* Serve what was reported: at once what cannot wait, and the first and the last, then what the times of the rest need. */
static int lanes_serve_found(Lanes *self, PyObject *others, double until_s)
{
    double came_s[MOST_EVENTS];
    int first = self->from, at, reads = 0;
    for (at = first; at < self->count; at++) {
        came_s[at] = UNREAD;
        if (at != first && at != self->count - 1 && lanes_patient(self, &self->found[at]) != NULL)
            continue;
        if (reads++ >= LEAST_READS && monotonic_s() >= until_s)
            break;
        came_s[at] = UNBOUND;
        if (lanes_serve(self, self->found[at].data.fd, 1, self->found[at].events != EPOLLIN, others, &came_s[at]) < 0)
            return -1;
    }
    self->from = at; /* the rest is served the next time */
    return lanes_settle(self, came_s, first, at, others);
}

static PyObject *lanes_drain(PyObject *object, PyObject *arguments)
{
    Lanes *self = (Lanes *)object;
    int most;
    double until_s;
    if (!PyArg_ParseTuple(arguments, "id", &most, &until_s))
        return NULL;
    if (most > MOST_EVENTS)
        most = MOST_EVENTS;
    int fresh = self->from == self->count;
    if (fresh) {
        double now_s = monotonic_s();
        self->look_s = now_s - self->reported_s;
        self->reported_s = now_s;
        int count = epoll_wait(self->epoll, self->found, most, 0);
        if (count < 0 && errno != EINTR)
            return PyErr_SetFromErrno(PyExc_OSError);
        self->from = 0;
        self->count = count > 0 ? count : 0;
        self->found_s = monotonic_s();
    }
    PyObject *others = PyList_New(0);
    if (others == NULL || lanes_serve_found(self, others, until_s) < 0 ||
        lanes_read_old(self, others, self->found_s, until_s) < 0) {
        Py_XDECREF(others);
        return NULL;
    }
    if (!fresh || self->count == most || self->from < self->count)
        return Py_BuildValue("iN", most, others);
    self->after_s = self->reported_s; /* all that came before was reported */
    return Py_BuildValue("iN", self->count, others);
}

/* Read what is unread of one descriptor; what of it is Python's. */
static PyObject *lanes_catch_up(PyObject *object, PyObject *arguments)
{
    Lanes *self = (Lanes *)object;
    int fd;
    double bound_s;
    if (!PyArg_ParseTuple(arguments, "i", &fd))
        return NULL;
    PyObject *others = PyList_New(0);
    Lane *lane = fd >= 0 && fd < self->room ? self->by_fd[fd] : NULL;
    if (others != NULL && lane != NULL && lane->unread && lanes_serve(self, fd, 0, 0, others, &bound_s) < 0)
        Py_CLEAR(others);
    return others;
}

static PyObject *lanes_take_delays(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    return times_take(&((Lanes *)object)->delays_s);
}

static PyObject *lanes_take_unsure(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    return times_take(&((Lanes *)object)->unsure_s);
}

static PyObject *lanes_take_between(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    return times_take(&((Lanes *)object)->between_s);
}

static PyMethodDef lanes_methods[] = {
    {"lay", lanes_lay, METH_VARARGS, NULL},
    {"lift", lanes_lift, METH_VARARGS, NULL},
    {"offer", lanes_offer, METH_VARARGS, NULL},
    {"drain", lanes_drain, METH_VARARGS, NULL},
    {"catch_up", lanes_catch_up, METH_VARARGS, NULL},
    {"take_delays", lanes_take_delays, METH_NOARGS, NULL},
    {"take_unsure", lanes_take_unsure, METH_NOARGS, NULL},
    {"take_between", lanes_take_between, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef lanes_members[] = {
    {"gap_s", T_DOUBLE, offsetof(Lanes, gap_s), 0, NULL},
    {"emptied_s", T_DOUBLE, offsetof(Lanes, emptied_s), 0, NULL},
    {"close_s", T_DOUBLE, offsetof(Lanes, close_s), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot lanes_slots[] = {
    {Py_tp_init, lanes_init}, {Py_tp_dealloc, lanes_dealloc}, {Py_tp_methods, lanes_methods},
    {Py_tp_members, lanes_members}, {Py_tp_new, PyType_GenericNew}, {0, NULL},
};

static PyType_Spec lanes_spec = {
    "fineserve_shapes.client._lanes.Lanes", sizeof(Lanes), 0, Py_TPFLAGS_DEFAULT, lanes_slots};

static int execute(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *lanes_type = PyType_FromModuleAndSpec(module, &lanes_spec, NULL);
    state->lane_type = PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    int failed = lanes_type == NULL || state->lane_type == NULL || PyModule_AddType(module, (PyTypeObject *)lanes_type) < 0 ||
                 PyModule_AddType(module, (PyTypeObject *)state->lane_type) < 0 ||
                 PyModule_AddIntConstant(module, "VERSION", VERSION) < 0;
    Py_XDECREF(lanes_type);
    return failed ? -1 : 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(((State *)PyModule_GetState(module))->lane_type);
    return 0;
}

static int clear(PyObject *module)
{
    Py_CLEAR(((State *)PyModule_GetState(module))->lane_type);
    return 0;
}

static void release(void *module) { clear((PyObject *)module); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_lanes",
    .m_size = sizeof(State),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__lanes(void) { return PyModuleDef_Init(&definition); }
