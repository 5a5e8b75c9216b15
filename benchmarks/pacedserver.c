/* A server that is known: each answer begins a fixed time after its request was read whole, its tokens come a fixed time
 * apart, and when each was written is kept. It speaks enough of vLLM's HTTP for clients to be measured against it.
 *
 * usage: pacedserver TTFT_MS GAP_MS MODEL      listens on 127.0.0.1, prints the port, ends with the process that started it
 *
 * Both times are constants, so what is due next is the head of one of two queues: answers that wait for their first token,
 * and answers under way. Times are absolute (due = due before + gap): a late write does not make the next one late.
 *
 *   POST /v1/completions, /v1/chat/completions    "stream", "max_tokens" or "max_completion_tokens", "include_usage"
 *   GET  /health, /v1/models
 *   GET  /count    how many requests came so far
 *   GET  /truth    doubles, in the machine's byte order, of CLOCK_MONOTONIC: how many rows and writes; each request's row;
 *                  each write (a token each). See the two structs.
 *   POST /reset    forget all that came
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 1 << 16, EVENTS = 256, WRITES_AT_ONCE = 64, DEFAULT_TOKENS = 16, TEXT = 7 };

struct row { double read_s, first_s, last_s, asked, written; };
struct written { double gap_s, late_s; }; /* gap_s: to the write before in the same answer; NaN for a first one */

struct answer {
    struct answer *next;
    int fd;
    unsigned serial, epoch; /* of the connection and of the truth: what has changed since is not this answer's */
    size_t row;
    double due_s, last_s;
    long asked, written, prompt;
    bool stream, usage, chat;
    char head[160]; /* how each of its events begins */
    size_t length, digits; /* of its chunk, and where in it the number of the token stands */
    char chunk[640];
};
struct queue { struct answer *first, **last; };
struct connection { unsigned serial; bool open, busy; char *in, *out; size_t have, room, need, body, pending, out_room; };

static struct connection connections[CONNECTIONS];
static struct queue waiting = {NULL, &waiting.first}, under_way = {NULL, &under_way.first};
static struct row *rows;
static struct written *writes;
static size_t row_count, row_room, write_count, write_room;
static unsigned epoch;
static double ttft_s, gap_s;
static const char *model;
static int watch;

static void take(int fd, double read_s);

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + 1e-9 * at.tv_nsec;
}

static void *grown(void *array, size_t *room, size_t wanted, size_t size) {
    if (wanted <= *room) return array;
    *room = wanted > 2 * *room ? wanted : 2 * *room;
    if (!(array = realloc(array, *room * size))) exit(1);
    return array;
}

static void push(struct queue *queue, struct answer *answer) {
    answer->next = NULL;
    *queue->last = answer;
    queue->last = &answer->next;
}

static struct answer *pop(struct queue *queue) {
    struct answer *answer = queue->first;
    if (!(queue->first = answer->next)) queue->last = &queue->first;
    return answer;
}

static struct queue *earliest(void) {
    if (!waiting.first) return &under_way;
    return under_way.first && under_way.first->due_s < waiting.first->due_s ? &under_way : &waiting;
}

static void hang_up(int fd) {
    struct connection *c = &connections[fd];
    close(fd);
    free(c->in);
    free(c->out);
    *c = (struct connection){.serial = c->serial + 1};
}

static void listen_for(int fd, int change, unsigned events) {
    epoll_ctl(watch, change, fd, &(struct epoll_event){.events = events, .data.fd = fd});
}

/* Send, and keep what the socket does not take until it does. */
static void put(int fd, const char *data, size_t length) {
    struct connection *c = &connections[fd];
    ssize_t sent = c->pending ? 0 : send(fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == (ssize_t)length) return;
    if (sent < 0 && errno != EAGAIN) { hang_up(fd); return; }
    if (sent < 0) sent = 0;
    c->out = grown(c->out, &c->out_room, c->pending + length - sent, 1);
    memcpy(c->out + c->pending, data + sent, length - sent);
    c->pending += length - sent;
    listen_for(fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void put_text(int fd, const char *text) { put(fd, text, strlen(text)); }

static void put_more(int fd) {
    struct connection *c = &connections[fd];
    ssize_t sent = send(fd, c->out, c->pending, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) { hang_up(fd); return; }
    if (sent > 0) memmove(c->out, c->out + sent, c->pending -= sent);
    if (!c->pending) listen_for(fd, EPOLL_CTL_MOD, EPOLLIN);
}

static void reply(int fd, const char *status, const char *type, const char *body) {
    char text[2048];
    put(fd, text, snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s", status,
                           type, strlen(body), body));
}

/* All at once, and waiting for it: what is asked for when a run is over may hold up others. */
static void put_truth(int fd) {
    double counts[2] = {row_count, write_count};
    struct { const void *data; size_t length; } parts[4] = {
        {NULL, 0}, {counts, sizeof counts}, {rows, row_count * sizeof *rows}, {writes, write_count * sizeof *writes}};
    char head[160];
    parts[0].data = head;
    parts[0].length = sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                                    "Content-Length: %zu\r\n\r\n", parts[1].length + parts[2].length + parts[3].length);
    for (int part = 0; part < 4; part++)
        for (size_t done = 0; done < parts[part].length;) {
            ssize_t sent = send(fd, (const char *)parts[part].data + done, parts[part].length - done, MSG_NOSIGNAL);
            if (sent < 0 && errno == EAGAIN) poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 1000);
            else if (sent < 0) { hang_up(fd); return; }
            else done += sent;
        }
}

/* An event of the stream in a chunk of its own; returns its length. */
static size_t framed(char *to, const char *event, size_t length) {
    size_t head = sprintf(to, "%zx\r\n", length);
    memcpy(to + head, event, length);
    memcpy(to + head + length, "\r\n", 2);
    return head + length + 2;
}

static size_t token(const struct answer *a, char *to, const char *reason) {
    char event[600];
    size_t length = snprintf(event, sizeof event,
        a->chat ? "data: %s\"choices\":[{\"index\":0,\"delta\":{\"content\":\" tok000\"},\"logprobs\":null,"
                  "\"finish_reason\":%s,\"stop_reason\":null,\"token_ids\":null}]}\n\n"
                : "data: %s\"choices\":[{\"index\":0,\"text\":\" tok000\",\"logprobs\":null,\"finish_reason\":%s,"
                  "\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}]}\n\n", a->head, reason);
    return framed(to, event, length);
}

static void number(char *digits, long token) {
    digits[0] = '0' + token / 100 % 10, digits[1] = '0' + token / 10 % 10, digits[2] = '0' + token % 10;
}

static size_t usage(const struct answer *a, char *to) {
    return sprintf(to, "\"usage\":{\"prompt_tokens\":%ld,\"total_tokens\":%ld,\"completion_tokens\":%ld}}", a->prompt,
                   a->prompt + a->asked, a->asked);
}

/* The first token, in a chat behind who speaks: vLLM sends both at once. */
static void put_first(const struct answer *a) {
    char text[2048], event[400];
    size_t length = 0;
    if (a->chat)
        length = framed(text, event, sprintf(event, "data: %s\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
                                                    "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n", a->head));
    memcpy(text + length, a->chunk, a->length);
    put(a->fd, text, length + a->length);
}

/* The last token, why it was the last, the usage where it was asked for, and the end. */
static void put_end(const struct answer *a) {
    char text[2048], event[400];
    size_t length = token(a, text, "\"length\"");
    number(strstr(text, " tok") + 4, a->written);
    if (a->usage) {
        size_t size = sprintf(event, "data: %s\"choices\":[],", a->head);
        size += usage(a, event + size);
        length += framed(text + length, event, size + sprintf(event + size, "\n\n"));
    }
    length += framed(text + length, "data: [DONE]\n\n", 14);
    put(a->fd, text, length + sprintf(text + length, "0\r\n\r\n"));
}

static void put_whole(const struct answer *a) {
    char *text = malloc(1200 + TEXT * a->asked), *body = text + 200, *at = body;
    if (!text) exit(1);
    at += sprintf(at, a->chat ? "%s\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\""
                              : "%s\"choices\":[{\"index\":0,\"text\":\"", a->head);
    for (long each = 1; each <= a->asked; each++, at += TEXT) {
        memcpy(at, " tok000", TEXT);
        number(at + 4, each);
    }
    at += sprintf(at, "\"%s,\"logprobs\":null,\"finish_reason\":\"length\"}],", a->chat ? "}" : "");
    at += usage(a, at);
    char head[200];
    int size = sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", at - body);
    memcpy(body - size, head, size);
    put(a->fd, body - size, at - body + size);
    free(text);
}

/* Write the token that is due. */
static void step(struct answer *a) {
    struct connection *c = &connections[a->fd];
    if (c->serial != a->serial) { free(a); return; } /* the client has gone */
    double at_s = now();
    bool last = ++a->written == a->asked;
    if (a->epoch == epoch) {
        writes = grown(writes, &write_room, write_count + 1, sizeof *writes);
        writes[write_count++] = (struct written){a->written == 1 ? NAN : at_s - a->last_s, at_s - a->due_s};
        struct row *row = &rows[a->row];
        if (a->written == 1) row->first_s = at_s;
        row->last_s = at_s;
        row->written = a->written;
    }
    a->last_s = at_s;
    if (!a->stream) {
        if (last) put_whole(a);
    } else if (last) {
        put_end(a);
    } else {
        number(a->chunk + a->digits, a->written);
        a->written == 1 ? put_first(a) : put(a->fd, a->chunk, a->length);
    }
    if (!last) {
        a->due_s += gap_s;
        push(&under_way, a);
        return;
    }
    if (c->serial == a->serial) {
        c->busy = false;
        if (c->have) take(a->fd, now());
    }
    free(a);
}

/* What stands behind a key of the body, or NULL. Quotes in a JSON string are escaped: a key cannot stand in a prompt. */
static const char *value(const char *body, size_t length, const char *key) {
    const char *found = memmem(body, length, key, strlen(key));
    if (!found) return NULL;
    for (found += strlen(key); *found == ' ' || *found == ':'; found++) {}
    return found;
}

static void begin(int fd, const char *body, size_t length, bool chat, double read_s) {
    static unsigned long answers;
    struct connection *c = &connections[fd];
    struct answer *a = malloc(sizeof *a);
    if (!a) exit(1);
    *a = (struct answer){.fd = fd, .serial = c->serial, .epoch = epoch, .row = row_count, .chat = chat};
    const char *found = value(body, length, "\"max_completion_tokens\"");
    if (!found || *found == 'n') found = value(body, length, "\"max_tokens\"");
    a->asked = found ? strtol(found, NULL, 10) : 0;
    if (a->asked < 1) a->asked = DEFAULT_TOKENS;
    a->stream = (found = value(body, length, "\"stream\"")) && *found == 't';
    a->usage = (found = value(body, length, "\"include_usage\"")) && *found == 't';
    if ((found = value(body, length, "\"prompt\"")) && *found == '[') { /* ids are counted, a text is guessed */
        for (a->prompt = 1; *found && *found != ']'; found++) a->prompt += *found == ',';
    } else {
        a->prompt = length / 4;
    }
    const char *object = !chat ? "text_completion" : a->stream ? "chat.completion.chunk" : "chat.completion";
    sprintf(a->head, "{\"id\":\"%s-%016lx\",\"object\":\"%s\",\"created\":%ld,\"model\":\"%.48s\",",
            chat ? "chatcmpl" : "cmpl", ++answers, object, time(NULL), model);
    a->length = token(a, a->chunk, "null");
    a->digits = strstr(a->chunk, " tok") + 4 - a->chunk;
    rows = grown(rows, &row_room, row_count + 1, sizeof *rows);
    rows[row_count++] = (struct row){read_s, NAN, NAN, a->asked, 0};
    a->due_s = read_s + ttft_s;
    c->busy = true;
    push(&waiting, a);
    if (a->stream)
        put_text(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n");
}

static void serve(int fd, const char *head, const char *body, size_t length, double read_s) {
    char text[512];
    bool chat = !strncmp(head, "POST /v1/chat/completions", 25);
    if (chat || !strncmp(head, "POST /v1/completions", 20)) {
        begin(fd, body, length, chat, read_s);
    } else if (!strncmp(head, "GET /health ", 12)) {
        reply(fd, "200 OK", "text/plain", "");
    } else if (!strncmp(head, "GET /v1/models ", 15)) {
        snprintf(text, sizeof text, "{\"object\":\"list\",\"data\":[{\"id\":\"%.48s\",\"object\":\"model\",\"created\":0,"
                 "\"owned_by\":\"pacedserver\",\"root\":\"%.48s\",\"parent\":null,\"max_model_len\":131072}]}", model,
                 model);
        reply(fd, "200 OK", "application/json", text);
    } else if (!strncmp(head, "GET /count ", 11)) {
        sprintf(text, "%zu", row_count);
        reply(fd, "200 OK", "text/plain", text);
    } else if (!strncmp(head, "GET /truth ", 11)) {
        put_truth(fd);
    } else if (!strncmp(head, "POST /reset ", 12)) {
        row_count = write_count = 0;
        epoch++;
        reply(fd, "200 OK", "text/plain", "");
    } else {
        reply(fd, "404 Not Found", "application/json", "{\"error\":{\"message\":\"no such path\",\"code\":404}}");
    }
}

/* Serve what has come whole; a byte behind it is kept zero, so that text can be read as such. */
static void take(int fd, double read_s) {
    struct connection *c = &connections[fd];
    unsigned serial = c->serial;
    while (c->serial == serial && c->have && !c->busy) {
        c->in[c->have] = 0;
        if (!c->need) {
            char *end = memmem(c->in, c->have, "\r\n\r\n", 4), *length;
            if (!end) return;
            *end = 0;
            length = strcasestr(c->in, "\r\ncontent-length:");
            if (strcasestr(c->in, "\r\ntransfer-encoding:")) {
                reply(fd, "411 Length Required", "text/plain", "say how long the body is");
                hang_up(fd);
                return;
            }
            if (strcasestr(c->in, "\r\nexpect: 100-continue")) put_text(fd, "HTTP/1.1 100 Continue\r\n\r\n");
            c->body = end + 4 - c->in;
            c->need = c->body + (length ? strtoul(length + 17, NULL, 10) : 0);
        }
        if (c->serial != serial || c->have < c->need) return;
        size_t whole = c->need;
        c->need = 0;
        serve(fd, c->in, c->in + c->body, whole - c->body, read_s);
        if (c->serial == serial) memmove(c->in, c->in + whole, c->have -= whole);
    }
}

static void receive(int fd) {
    struct connection *c = &connections[fd];
    c->in = grown(c->in, &c->room, (c->need > c->have ? c->need : c->have) + 4096, 1);
    ssize_t got = recv(fd, c->in + c->have, c->room - c->have - 1, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN)) { hang_up(fd); return; }
    if (got < 0) return;
    c->have += got;
    take(fd, now());
}

static void accept_all(int door) {
    for (int fd; (fd = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        if (fd >= CONNECTIONS) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        connections[fd].open = true;
        listen_for(fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

int main(int count, char **words) {
    if (count != 4) return fprintf(stderr, "usage: pacedserver TTFT_MS GAP_MS MODEL\n"), 2;
    ttft_s = 1e-3 * atof(words[1]), gap_s = 1e-3 * atof(words[2]), model = words[3];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1UL);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    watch = epoll_create1(EPOLL_CLOEXEC);
    if (bind(door, (struct sockaddr *)&address, size) || listen(door, 4096)) return perror("pacedserver"), 1;
    getsockname(door, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    listen_for(door, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        struct queue *next = earliest();
        for (int left = WRITES_AT_ONCE; left && next->first && next->first->due_s <= now(); left--, next = earliest())
            step(pop(next));
        double sleep_s = next->first ? next->first->due_s - now() : 1.0;
        if (sleep_s < 0) sleep_s = 0;
        struct timespec until = {(time_t)sleep_s, (long)(1e9 * (sleep_s - (time_t)sleep_s))};
        struct epoll_event events[EVENTS];
        int ready = epoll_pwait2(watch, events, EVENTS, &until, NULL);
        for (int each = 0; each < ready; each++) {
            int fd = events[each].data.fd;
            if (fd == door) { accept_all(door); continue; }
            if (events[each].events & EPOLLOUT && connections[fd].open) put_more(fd);
            if (events[each].events & ~EPOLLOUT && connections[fd].open) receive(fd);
        }
    }
}
