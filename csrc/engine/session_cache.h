// The sessions that no generation has now. What they hold may be the beginning of a later prompt, which is then evaluated
// once: a conversation goes on in the session of its last turn, prompts with a common beginning fork it.
#pragma once

#include "session/session.h"

#include <memory>
#include <vector>

namespace mp {

class session_cache {
public:
    explicit session_cache(context_ref context) : context(std::move(context)) {}

    // A session that holds as much as there is of the beginning of `text`. `active` have theirs and may be forked.
    std::unique_ptr<mp_session> take(const std::vector<int32_t> & text, const std::vector<mp_session *> & active);

    // One whose content does not matter.
    std::unique_ptr<mp_session> take_oldest(size_t n_active);

    void give_back(std::unique_ptr<mp_session> session);

    // Frees the one that was used longest ago; false where there is none.
    bool drop_oldest();

private:
    using place = std::vector<std::unique_ptr<mp_session>>::iterator;

    bool make_room(size_t n_active, const mp_session * kept);
    std::unique_ptr<mp_session> take_at(place at);

    const context_ref context;
    std::vector<std::unique_ptr<mp_session>> idle; // the newest last
};

} // namespace mp
