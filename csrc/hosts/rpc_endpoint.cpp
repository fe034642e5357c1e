#include "hosts/rpc_endpoint.h"

#include "gguf/reader.h"
#include "status.h"

#include "ggml-rpc.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace mp {

using steady = std::chrono::steady_clock;

static constexpr std::chrono::milliseconds ANSWER_TIME(5000); // for the connection, and for the first answer
static constexpr int PORT_MAX = 65535;
// The first message of a client, the same in all versions since 2: a command, the size of what follows, and what this end
// can do beside TCP (nothing here). The answer: its size, the version, and the same of the other end.
static constexpr uint8_t HELLO = 14;
static constexpr size_t CAPS_SIZE = 24;
#ifdef MSG_NOSIGNAL
static constexpr int NO_SIGNAL = MSG_NOSIGNAL; // where the other end has closed
#else
static constexpr int NO_SIGNAL = 0; // SO_NOSIGPIPE
#endif
static constexpr size_t VERSION_SIZE = 4; // major, minor, patch, padding

namespace {

struct connection {
    const rpc_endpoint & to;
    int fd = -1;
    steady::time_point end = steady::now() + ANSWER_TIME;

    explicit connection(const rpc_endpoint & to) : to(to) {}
    ~connection() {
        if (fd >= 0) {
            close(fd);
        }
    }
    connection(const connection &) = delete;
    connection & operator=(const connection &) = delete;

    bool wait(short events) { // false: it took too long
        for (;;) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - steady::now()).count();
            pollfd place = {fd, events, 0};
            const int n = left > 0 ? poll(&place, 1, (int) left) : 0;
            if (n >= 0 || errno != EINTR) {
                return n > 0;
            }
        }
    }

    void open() {
        addrinfo hints = {}, *found = nullptr;
        hints.ai_family = AF_INET; // ggml takes no other
        hints.ai_socktype = SOCK_STREAM;
        if (const int code = getaddrinfo(to.host.c_str(), nullptr, &hints, &found)) {
            fail(MP_ERR_FILE, "the RPC host %s cannot be found: %s", quoted(to.host).c_str(), gai_strerror(code));
        }
        sockaddr_in address = *(const sockaddr_in *) found->ai_addr;
        freeaddrinfo(found);
        address.sin_port = htons((uint16_t) to.port);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        int error = fd < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? errno : 0;
#ifdef SO_NOSIGPIPE
        const int yes = 1;
        setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &yes, sizeof(yes));
#endif
        if (error == 0 && connect(fd, (const sockaddr *) &address, sizeof(address)) < 0) {
            error = errno;
        }
        if (error == EINPROGRESS) {
            socklen_t size = sizeof(error);
            error = wait(POLLOUT) ? 0 : ETIMEDOUT;
            if (error == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) {
                error = errno;
            }
        }
        if (error != 0) {
            fail(MP_ERR_FILE,
                 "no RPC worker answers at %s (%s): start one there with maskprobe-worker, and see that its port "
                 "can be reached",
                 to.text.c_str(), strerror(error));
        }
    }

    void send_hello() {
        uint8_t message[1 + sizeof(uint64_t) + CAPS_SIZE] = {HELLO};
        const uint64_t size = CAPS_SIZE;
        memcpy(message + 1, &size, sizeof(size));
        if (send(fd, message, sizeof(message), NO_SIGNAL) != (ssize_t) sizeof(message)) {
            refuse_answer();
        }
    }

    void receive(void * out, size_t size) {
        for (size_t n = 0; n < size;) {
            if (!wait(POLLIN)) {
                fail(
                    MP_ERR_FILE,
                    "%s takes connections, but said nothing for %d seconds: its RPC worker serves another program (one at a "
                    "time), or it is none",
                    to.text.c_str(), (int) (ANSWER_TIME.count() / 1000));
            }
            const ssize_t got = read(fd, (char *) out + n, size - n);
            if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) {
                refuse_answer();
            }
            n += got > 0 ? (size_t) got : 0;
        }
    }

    [[noreturn]] void refuse_answer() const {
        fail(MP_ERR_FILE, "what answers at %s is no RPC worker, or one of a much older llama.cpp", to.text.c_str());
    }
};

} // namespace

rpc_endpoint::rpc_endpoint(const std::string & text) : text(text) {
    const size_t colon = text.find(':'); // ggml takes what is before the first for the host
    const std::string digits = colon == std::string::npos ? "" : text.substr(colon + 1);
    const bool is_number = !digits.empty() && digits.size() <= 5 && digits.find_first_not_of("0123456789") == digits.npos;
    port = is_number ? atoi(digits.c_str()) : 0;
    if (colon == 0 || port < 1 || port > PORT_MAX) {
        fail(MP_ERR_ARGUMENT, "the RPC host %s must be a name or an IPv4 address and a port, as in 192.168.1.2:50052",
             quoted(text).c_str());
    }
    host = text.substr(0, colon);
}

void rpc_endpoint::check() const {
    connection worker(*this);
    worker.open();
    worker.end = steady::now() + ANSWER_TIME;
    worker.send_hello();
    uint64_t size = 0;
    uint8_t answer[VERSION_SIZE + CAPS_SIZE];
    worker.receive(&size, sizeof(size));
    if (size < VERSION_SIZE - 1 || size > sizeof(answer)) {
        worker.refuse_answer();
    }
    worker.receive(answer, size);
    if (size != sizeof(answer) || answer[0] != RPC_PROTO_MAJOR_VERSION || answer[1] > RPC_PROTO_MINOR_VERSION) {
        fail(MP_ERR_UNSUPPORTED,
             "the RPC worker at %s speaks version %d.%d.%d, this llama.cpp %d.%d.%d: run the same llama.cpp "
             "on both",
             text.c_str(), answer[0], answer[1], answer[2], RPC_PROTO_MAJOR_VERSION, RPC_PROTO_MINOR_VERSION,
             RPC_PROTO_PATCH_VERSION);
    }
}

} // namespace mp
