/* HTTP/1.1 load on keep-alive connections: at a fixed rate whatever the answers do (open loop), or one request after the
 * other on each connection (rate 0, closed loop). Prints one JSON line; latency counts from when a request was due.
 * http_load PORT CONNECTIONS RATE SECONDS PERCENT_PLAIN FIRST_NUMBER [FILE]: FILE gets every latency, seconds as doubles.
 * http_load pair CALLS | nothing CALLS: the price of a send and a recv on a TCP pair, or of getppid, in ns of CPU time a call. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct line {
	int door, busy, in_head, chunked;
	double due;
	long wanted, got;
	char tail[8], head[4096];
	int tail_length, head_length;
};

static double seconds_of(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double now(void)
{
	return seconds_of(CLOCK_MONOTONIC);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static int open_line(int port)
{
	int door = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (connect(door, (void *)&to, sizeof(to))) {
		perror("connect");
		exit(1);
	}
	setsockopt(door, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	fcntl(door, F_SETFL, O_NONBLOCK);
	return door;
}

static void ask(struct line *l, long number, int plain, double due)
{
	static const char body[] = "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";
	char text[1024], length[64] = "";
	if (!plain)
		snprintf(length, sizeof(length), "Content-Length: %zu\r\n", sizeof(body) - 1);
	int size = snprintf(text, sizeof(text),
			    "%s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: load\r\n%s"
			    "traceparent: 00-%032lx-%016lx-01\r\nx-request-id: r%ld\r\n\r\n%s",
			    plain ? "GET /v1/models" : "POST /v1/chat/completions", length, number, number, number, plain ? "" : body);
	l->busy = l->in_head = 1;
	l->due = due;
	l->wanted = l->got = l->tail_length = l->head_length = l->chunked = 0;
	if (send(l->door, text, size, MSG_NOSIGNAL) != size)
		exit(2);
}

/* Takes `size` bytes of the answer; returns whether it is whole. */
static int take(struct line *l, const char *data, long size)
{
	long from = 0;
	if (l->in_head) {
		long copied = size < (long)sizeof(l->head) - 1 - l->head_length ? size : (long)sizeof(l->head) - 1 - l->head_length;
		memcpy(l->head + l->head_length, data, copied);
		l->head[l->head_length + copied] = 0;
		char *end = strstr(l->head, "\r\n\r\n"), *length;
		if (!end) {
			l->head_length += copied;
			return 0;
		}
		from = end + 4 - l->head - l->head_length;
		l->in_head = 0;
		if (strncmp(l->head, "HTTP/1.1 200", 12)) {
			fprintf(stderr, "not measured: the server answered %.60s\n", l->head);
			exit(4);
		}
		length = strcasestr(l->head, "content-length:");
		l->chunked = !(length && length < end);
		l->wanted = l->chunked ? 0 : atol(length + 15);
	}
	l->got += size - from;
	if (!l->chunked)
		return l->got >= l->wanted;
	for (long i = size - 5 > from ? size - 5 : from; i < size; i++) {
		if (l->tail_length == 5)
			memmove(l->tail, l->tail + 1, --l->tail_length);
		l->tail[l->tail_length++] = data[i];
	}
	return l->tail_length == 5 && !memcmp(l->tail, "0\r\n\r\n", 5);
}

static void load(int port, int lines, double rate, double seconds, int plain_percent, long first, const char *file)
{
	struct line *all = calloc(lines, sizeof(*all));
	int poll = epoll_create1(0), *idle = malloc(lines * sizeof(int)), idles = 0;
	long room = rate > 0 ? rate * seconds + 1 : 4000000, sent = 0, done = 0;
	double *took = malloc(room * sizeof(double));
	static char data[1 << 16];
	for (int i = 0; i < lines; i++) {
		all[i].door = open_line(port);
		struct epoll_event e = {EPOLLIN, {.u32 = i}};
		epoll_ctl(poll, EPOLL_CTL_ADD, all[i].door, &e);
		idle[idles++] = i;
	}
	double start = now(), end = start + seconds;
	long total = rate > 0 ? (long)(rate * seconds) : room;
	while (1) {
		double time = now();
		int open = rate > 0 ? sent < total : time < end;
		if (!open && (done == sent || time > end + 5))
			break;
		while (open && idles && sent < total) {
			double due = rate > 0 ? start + sent / rate : time;
			if (due > time)
				break;
			ask(&all[idle[--idles]], first + sent, sent % 100 < plain_percent, due);
			sent++;
		}
		struct epoll_event events[256];
		struct timespec wait = {0, rate > 0 && open ? 200000 : 20000000};
		int count = epoll_pwait2(poll, events, 256, &wait, 0);
		for (int i = 0; i < count; i++) {
			struct line *l = &all[events[i].data.u32];
			long size = recv(l->door, data, sizeof(data), 0);
			if (size <= 0)
				exit(3);
			if (l->busy && take(l, data, size)) {
				took[done++] = now() - l->due;
				l->busy = 0;
				idle[idles++] = events[i].data.u32;
			}
		}
	}
	double spent = now() - start;
	FILE *out = file ? fopen(file, "wb") : 0;
	if (file && (!out || fwrite(took, sizeof(double), done, out) != (size_t)done || fclose(out))) {
		perror(file);
		exit(5);
	}
	qsort(took, done, sizeof(double), compare);
	printf("{\"sent\":%ld,\"done\":%ld,\"per_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n", sent, done, done / spent,
	       done ? took[done / 2] * 1e6 : 0, done ? took[(long)(done * 0.99)] * 1e6 : 0);
}

static void price(int pair, long calls)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, to, from;
	struct sockaddr_in where = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(where);
	char data[128] = "this is not the beginning of a message";
	bind(listener, (void *)&where, sizeof(where));
	listen(listener, 1);
	getsockname(listener, (void *)&where, &length);
	to = socket(AF_INET, SOCK_STREAM, 0);
	connect(to, (void *)&where, sizeof(where));
	from = accept(listener, 0, 0);
	setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	double start = seconds_of(CLOCK_PROCESS_CPUTIME_ID); /* whoever else runs on the core is no part of the price */
	for (long i = 0; i < calls; i++) {
		if (!pair)
			syscall(SYS_getppid);
		else if (send(to, data, sizeof(data), 0) < 0 || recv(from, data, sizeof(data), 0) < 0)
			exit(1);
	}
	printf("%.1f\n", (seconds_of(CLOCK_PROCESS_CPUTIME_ID) - start) * 1e9 / calls / (pair ? 2 : 1));
}

int main(int count, char **words)
{
	if (count == 3)
		price(!strcmp(words[1], "pair"), atol(words[2]));
	else
		load(atoi(words[1]), atoi(words[2]), atof(words[3]), atof(words[4]), atoi(words[5]), atol(words[6]), count > 7 ? words[7] : 0);
	return 0;
}
