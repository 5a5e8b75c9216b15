/* Rings: chunks of streams that are due at one interval, written to their sockets at their times without Python.
 *
 * What may live here: the order in which the streams of a ring are due, the writing of chunks that were rendered before,
 * the times of these writes, and the waiting for the next one. What a socket does not take, and the end of a stream, are
 * Python's.
 *
 * No write waits, so all but the waiting is under the interpreter's lock. Thousands of streams do not fit into the caches
 * of a core beside the kernel's share of a write, so what the next chunk needs is fetched while the last one is written.
 */

#define _GNU_SOURCE /* ppoll */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define MOST_CHUNKS 32
#define LONGEST_S 1e6 /* of a wait */
#define VERSION 2 /* of what ring.py knows */

/* Not Py_RETURN_NONE: by Python 3.12's headers that counts no reference, which 3.11, for which this is built too, counts. */
static PyObject *none(void) { return Py_NewRef(Py_None); }

/* Seat: one stream in a ring. */

typedef struct {
    const char *data;
    Py_ssize_t size;
} Chunk;

typedef struct {
    PyObject_HEAD
    int fd;
    int next, several; /* of the chunks, which come again and again: the next one, and how many they are */
    Py_ssize_t left;   /* how many will still be written */
    double *written_s; /* room for all that will be */
    Py_ssize_t held;   /* times that Python has not taken yet */
    PyObject *owner;   /* of what the chunks point to */
    Chunk chunks[MOST_CHUNKS];
} Seat;

static int seat_init(PyObject *object, PyObject *arguments, PyObject *named)
{
    Seat *self = (Seat *)object;
    static char *names[] = {"fd", "chunks", "first", "count", NULL};
    PyObject *chunks;
    if (self->owner != NULL) {
        PyErr_SetString(PyExc_TypeError, "a seat is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "iO!in", names, &self->fd, &PyTuple_Type, &chunks, &self->next,
                                     &self->left))
        return -1;
    Py_ssize_t several = PyTuple_Size(chunks);
    if (several < 1 || several > MOST_CHUNKS || self->next < 0 || self->next >= several || self->left < 0) {
        PyErr_Format(PyExc_ValueError, "%zd chunks from number %d on, of %zd", self->left, self->next, several);
        self->left = 0;
        return -1;
    }
    self->several = (int)several;
    self->owner = Py_NewRef(chunks);
    for (int number = 0; number < self->several; number++) {
        char *data;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(chunks, number), &data, &self->chunks[number].size) < 0)
            return -1;
        self->chunks[number].data = data;
    }
    self->written_s = PyMem_Malloc((size_t)(self->left ? self->left : 1) * sizeof(double));
    if (self->written_s == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void seat_dealloc(PyObject *object)
{
    Seat *self = (Seat *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->owner);
    PyMem_Free(self->written_s);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *seat_take(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Seat *self = (Seat *)object;
    const char *bytes = self->held ? (const char *)self->written_s : "";
    PyObject *taken = PyBytes_FromStringAndSize(bytes, self->held * (Py_ssize_t)sizeof(double));
    if (taken != NULL)
        self->held = 0;
    return taken;
}

static PyMethodDef seat_methods[] = {{"take", seat_take, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};

static PyType_Slot seat_slots[] = {
    {Py_tp_init, seat_init}, {Py_tp_dealloc, seat_dealloc}, {Py_tp_methods, seat_methods},
    {Py_tp_new, PyType_GenericNew}, {0, NULL},
};

static PyType_Spec seat_spec = {"fineserve_shapes.simulator._ring.Seat", sizeof(Seat), 0, Py_TPFLAGS_DEFAULT, seat_slots};

/* Ring: its seats in order of time. */

typedef struct {
    PyObject *seat_type;
} State;

typedef struct {
    PyObject_HEAD
    double interval_s, rounding_s, gather_s;
    long long round;
    Py_ssize_t place;  /* of the seat whose turn is next; those before it have had their chunk of this round */
    double *offset_s;  /* when the chunk of each is due, counted from the beginning of the round */
    Seat **seats;
    Py_ssize_t count, room;
} Ring;

static int ring_init(PyObject *object, PyObject *arguments, PyObject *named)
{
    Ring *self = (Ring *)object;
    static char *names[] = {"interval_s", "rounding_s", "gather_s", NULL};
    int parsed = PyArg_ParseTupleAndKeywords(arguments, named, "ddd", names, &self->interval_s, &self->rounding_s,
                                             &self->gather_s);
    return parsed ? 0 : -1;
}

static void ring_dealloc(PyObject *object)
{
    Ring *self = (Ring *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (Py_ssize_t place = 0; place < self->count; place++)
        Py_DECREF((PyObject *)self->seats[place]);
    PyMem_Free(self->seats);
    PyMem_Free(self->offset_s);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* The first place from `first` on, before `end`, of what is due later than that. */
static Py_ssize_t ring_after(const Ring *self, double offset_s, Py_ssize_t first, Py_ssize_t end)
{
    while (first < end) {
        Py_ssize_t middle = first + (end - first) / 2;
        if (offset_s < self->offset_s[middle])
            end = middle;
        else
            first = middle + 1;
    }
    return first;
}

static int ring_grow(Ring *self)
{
    Py_ssize_t room = self->room ? 2 * self->room : 64;
    double *offset_s = PyMem_Realloc(self->offset_s, room * sizeof(double));
    if (offset_s != NULL)
        self->offset_s = offset_s;
    Seat **seats = offset_s == NULL ? NULL : PyMem_Realloc(self->seats, room * sizeof(Seat *));
    if (seats == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->seats = seats;
    self->room = room;
    return 0;
}

static PyObject *ring_board(PyObject *object, PyObject *arguments)
{
    Ring *self = (Ring *)object;
    PyObject *seat;
    double due_s;
    State *state = PyType_GetModuleState(Py_TYPE(object));
    if (state == NULL || !PyArg_ParseTuple(arguments, "O!d", (PyTypeObject *)state->seat_type, &seat, &due_s))
        return NULL;
    if (self->count == self->room && ring_grow(self) < 0)
        return NULL;
    double offset_s = due_s - (double)self->round * self->interval_s;
    Py_ssize_t place = ring_after(self, offset_s, self->place, self->count);
    if (self->place && place == self->count && offset_s - self->interval_s >= self->offset_s[0]) {
        /* after all that are still due in this round, and not before those of the next one */
        offset_s -= self->interval_s;
        place = ring_after(self, offset_s, 0, self->place);
        self->place++;
    }
    memmove(self->offset_s + place + 1, self->offset_s + place, (self->count - place) * sizeof(double));
    memmove(self->seats + place + 1, self->seats + place, (self->count - place) * sizeof(Seat *));
    self->offset_s[place] = offset_s;
    self->seats[place] = (Seat *)Py_NewRef(seat);
    self->count++;
    return none();
}

/* The seat of this place, which is the caller's from then on. */
static Seat *ring_remove(Ring *self, Py_ssize_t place)
{
    Seat *seat = self->seats[place];
    self->count--;
    memmove(self->offset_s + place, self->offset_s + place + 1, (self->count - place) * sizeof(double));
    memmove(self->seats + place, self->seats + place + 1, (self->count - place) * sizeof(Seat *));
    if (place < self->place)
        self->place--;
    return seat;
}

static PyObject *ring_leave(PyObject *object, PyObject *seat)
{
    Ring *self = (Ring *)object;
    for (Py_ssize_t place = 0; place < self->count; place++)
        if ((PyObject *)self->seats[place] == seat) {
            Py_DECREF((PyObject *)ring_remove(self, place));
            return none();
        }
    PyErr_SetString(PyExc_ValueError, "it has no seat here");
    return NULL;
}

/* When something is due next; infinity where all seats are empty. */
static double ring_due_s(const Ring *self)
{
    if (self->count == 0)
        return Py_HUGE_VAL;
    int turns = self->place == self->count;
    double offset_s = self->offset_s[turns ? 0 : self->place];
    return offset_s + (double)(self->round + turns) * self->interval_s + self->rounding_s;
}

static PyObject *ring_next_s(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Ring *self = (Ring *)object;
    if (self->count == 0)
        return none();
    return PyFloat_FromDouble(ring_due_s(self));
}

/* Now, of CLOCK_MONOTONIC, to the last digit as Python's perf_counter gives it. */
static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec * 1000000000LL + now.tv_nsec) / 1e9;
}

static void seat_fetch(const Seat *self)
{
    __builtin_prefetch(self->written_s + self->held, 1);
    const Chunk *chunk = &self->chunks[self->next];
    for (Py_ssize_t byte = 0; byte < chunk->size && byte < 512; byte += 64)
        __builtin_prefetch(chunk->data + byte);
}

/* What is due until then, as `write` does it. */
static PyObject *ring_give(Ring *self, double until_s, PyObject *rest)
{
    until_s -= self->rounding_s;
    while (self->count) {
        if (self->place == self->count) {
            self->place = 0;
            self->round++;
        }
        if (self->offset_s[self->place] > until_s - (double)self->round * self->interval_s)
            break;
        Seat *seat = self->seats[self->place];
        if (seat->left == 0)
            return (PyObject *)ring_remove(self, self->place);
        self->place++;
        if (self->place + 1 < self->count)
            __builtin_prefetch(self->seats[self->place + 1]);
        if (self->place < self->count)
            seat_fetch(self->seats[self->place]);
        const Chunk *chunk = &seat->chunks[seat->next];
        seat->next = seat->next + 1 == seat->several ? 0 : seat->next + 1;
        seat->left--;
        seat->written_s[seat->held++] = clock_s();
        ssize_t sent = send(seat->fd, chunk->data, chunk->size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent != chunk->size) { /* from here on anything can run, the end of this seat included */
            sent = sent < 0 ? 0 : sent;
            Py_INCREF((PyObject *)seat);
            PyObject *fd = PyObject_CallFunction(rest, "Oy#", seat, chunk->data + sent, chunk->size - sent);
            long number = fd == NULL ? -1 : PyLong_AsLong(fd);
            seat->fd = (int)number;
            Py_XDECREF(fd);
            Py_DECREF((PyObject *)seat);
            if (number == -1 && PyErr_Occurred())
                return NULL;
        }
    }
    return none();
}

static PyObject *ring_write(PyObject *object, PyObject *arguments)
{
    double until_s;
    PyObject *rest;
    return PyArg_ParseTuple(arguments, "dO", &until_s, &rest) ? ring_give((Ring *)object, until_s, rest) : NULL;
}

/* Wait until then; whether the descriptor is readable, or a signal has come. */
static int readable(int fd, double until_s)
{
    double for_s = until_s - clock_s();
    struct timespec wait = {0, 0};
    if (for_s > LONGEST_S)
        for_s = LONGEST_S;
    if (for_s > 0) {
        wait.tv_sec = (time_t)for_s;
        wait.tv_nsec = (long)(1e9 * (for_s - (double)wait.tv_sec));
    }
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    int found;
    Py_BEGIN_ALLOW_THREADS;
    found = ppoll(&watched, 1, &wait, NULL);
    Py_END_ALLOW_THREADS;
    return found != 0;
}

static PyObject *ring_ride(PyObject *object, PyObject *arguments)
{
    Ring *self = (Ring *)object;
    double until_s;
    int fd;
    PyObject *rest;
    if (!PyArg_ParseTuple(arguments, "diO", &until_s, &fd, &rest))
        return NULL;
    for (;;) {
        double now_s = clock_s();
        PyObject *seat = ring_give(self, now_s, rest);
        if (seat != Py_None)
            return seat;
        Py_DECREF(seat);
        double due_s = ring_due_s(self), soon_s = now_s + self->gather_s, wake_s = due_s > soon_s ? due_s : soon_s;
        if (now_s >= until_s || readable(fd, wake_s < until_s ? wake_s : until_s))
            return none();
    }
}

static PyMethodDef ring_methods[] = {
    {"board", ring_board, METH_VARARGS, NULL},
    {"leave", ring_leave, METH_O, NULL},
    {"next_s", ring_next_s, METH_NOARGS, NULL},
    {"write", ring_write, METH_VARARGS, NULL},
    {"ride", ring_ride, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_init, ring_init}, {Py_tp_dealloc, ring_dealloc}, {Py_tp_methods, ring_methods},
    {Py_tp_new, PyType_GenericNew}, {0, NULL},
};

static PyType_Spec ring_spec = {"fineserve_shapes.simulator._ring.ChunkRing", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT, ring_slots};

static int execute(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *ring_type = PyType_FromModuleAndSpec(module, &ring_spec, NULL);
    state->seat_type = PyType_FromModuleAndSpec(module, &seat_spec, NULL);
    int failed = ring_type == NULL || state->seat_type == NULL || PyModule_AddType(module, (PyTypeObject *)ring_type) < 0 ||
                 PyModule_AddType(module, (PyTypeObject *)state->seat_type) < 0 ||
                 PyModule_AddIntConstant(module, "VERSION", VERSION) < 0;
    Py_XDECREF(ring_type);
    return failed ? -1 : 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(((State *)PyModule_GetState(module))->seat_type);
    return 0;
}

static int clear(PyObject *module)
{
    Py_CLEAR(((State *)PyModule_GetState(module))->seat_type);
    return 0;
}

static void release(void *module) { clear((PyObject *)module); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_ring",
    .m_size = sizeof(State),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__ring(void) { return PyModuleDef_Init(&definition); }
