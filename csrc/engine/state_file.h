// A file that is read and replaced as a whole. A reader never sees half of one, whoever is killed; of two processes the
// later one's file stays. Nothing that is not a state is ever touched.
#pragma once

#include <cstddef>
#include <string>

namespace mp {

struct found_file {
    enum kind_of { NOTHING, STATE, OTHER, UNREADABLE } kind; // an empty file is nothing
    std::string what;                                        // OTHER: what it is, "a directory"; UNREADABLE: why
    std::string bytes;                                       // STATE: at most as many as were asked for
};

// What lies at a place. `n_most`: bytes wanted of a state.
found_file look_at(const std::string & place, size_t n_most);

// Whether it is a plain file by itself, not by a link.
bool is_plain_file(const std::string & path);

// The place that a path names, whether or not there is a file: absolute, with symbolic links followed.
// Throws ARGUMENT where it names none: a directory, links in a circle.
std::string follow_links(const std::string & path);

// Replaces a state, or makes the file and its directories, for its owner alone. "" or why it was left as it is.
std::string replace_state(const std::string & place, const std::string & bytes);

// Renames a state to `bad`, a name that is free: its own with .bad, .bad.1, ... "" or why it was left as it is.
std::string set_aside(const std::string & place, std::string & bad);

// Removes what is half written to this place by processes that were killed.
void remove_abandoned(const std::string & place);

} // namespace mp
