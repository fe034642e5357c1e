// Runs text streams for tests/test_text_stream.py. A line of standard input is one stream, its words in order:
//
//     stop=HEX   a stop string        +HEX   bytes that are shown        -HEX   bytes that are not        end   finish()
//
// The answer is one line: what take() gave after each piece and after the end, in hexadecimal after "=", and "stopped" or
// "going"; or "refused", the status and its message.
#include "engine/text_stream.h"
#include "status.h"

#include <iostream>
#include <sstream>

static std::string from_hex(const std::string & digits) {
    std::string bytes;
    for (size_t i = 0; i + 1 < digits.size(); i += 2) {
        bytes += (char) std::stoi(digits.substr(i, 2), nullptr, 16);
    }
    return bytes;
}

static std::string to_hex(const std::string & bytes) {
    std::string digits;
    for (const unsigned char c : bytes) {
        digits += mp::format("%02x", c);
    }
    return digits;
}

static std::string run(const std::string & line) {
    std::vector<std::string> words, stop;
    std::istringstream in(line);
    for (std::string word; in >> word;) {
        if (word.rfind("stop=", 0) == 0) {
            stop.push_back(from_hex(word.substr(5)));
        } else {
            words.push_back(word);
        }
    }
    mp::text_stream stream(stop);
    std::string answer;
    for (const std::string & word : words) {
        if (word == "end") {
            stream.finish();
        } else {
            const std::string bytes = from_hex(word.substr(1));
            stream.push(bytes.data(), bytes.size(), word[0] == '+');
        }
        answer += "=" + to_hex(stream.take()) + " ";
    }
    return answer + (stream.stopped() ? "stopped" : "going");
}

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        try {
            std::cout << run(line) << std::endl;
        } catch (const mp::failure & e) {
            std::cout << "refused " << e.status << " " << e.message << std::endl;
        }
    }
}
