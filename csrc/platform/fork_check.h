// A child made by fork() has none of its parent's threads, and a lock that one of them held stays locked there: what waits
// for either waits for ever. So once threads have run, or while a call is under way that a fork would cut in two, the child
// is told at its first call to begin otherwise. A child of a process in which nothing had run is a process like any other.
#pragma once

namespace mp {

// From here on children of this process are refused: threads of ours, of ggml or of OpenMP are about to run.
void refuse_children();

// While one is alive, so are children that are made meanwhile.
class refuse_children_meanwhile {
public:
    refuse_children_meanwhile();
    ~refuse_children_meanwhile();
    refuse_children_meanwhile(const refuse_children_meanwhile &) = delete;
    refuse_children_meanwhile & operator=(const refuse_children_meanwhile &) = delete;
};

// Whether this process is such a child: nothing may be waited for or freed here.
bool is_refused_child() noexcept;

// Throws MP_ERR_STATE in such a child. Before any lock is taken.
void check_process();

} // namespace mp
