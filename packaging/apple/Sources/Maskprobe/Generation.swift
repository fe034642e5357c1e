import CMaskprobe

/// One emitted token. The last one of a generation says why it ends.
public struct Token: Sendable {
    public enum Finish: Int, Sendable {
        /// An end token or a stop string; as many tokens as were wanted; the context is full; the grammar allows none.
        case stop = 1, length, context, constraint, cancelled
    }

    /// What is certain now: whole characters, nothing that may become a stop string. May be empty.
    public let text: String
    /// -1: the generation ends without another token.
    public let id: Int32
    /// In the model's own distribution; and the gap of its two best tokens there.
    public let logProbability, margin: Float
    /// What had guessed it; "model": nothing.
    public let source: String
    /// nil: it goes on.
    public let finish: Finish?

    init(_ token: mp_token) {
        let bytes = UnsafeRawBufferPointer(start: token.text, count: token.n_text)
        text = String(decoding: bytes, as: UTF8.self)
        id = token.id
        logProbability = token.logprob
        margin = token.margin
        source = String(cString: mp_source_name(token.source))
        finish = Finish(rawValue: Int(token.finish.rawValue))
    }
}

/// Counts of a generation so far.
public struct Stats: Sendable {
    public let promptTokens, tokens, drafted, accepted, passes: Int

    init(_ stats: mp_stats) {
        promptTokens = Int(stats.n_prompt)
        tokens = Int(stats.n_gen)
        drafted = Int(stats.n_drafted)
        accepted = Int(stats.n_accepted)
        passes = Int(stats.n_passes)
    }
}

/// The tokens that follow a prompt. It has begun when it is made, and is gone through once: leaving the loop ends it, as does
/// cancelling the task.
public struct Generation: AsyncSequence, Sendable {
    public typealias Element = Token

    let running: Running
    let stream: AsyncThrowingStream<Token, Error>
    let engine: Engine // lives as long as this

    /// The text alone, in pieces that may be empty.
    public var text: AsyncMapSequence<Generation, String> { map(\.text) }

    public var stats: Stats { running.stats }

    /// Its last token comes after the pass that is under way.
    public func cancel() {
        running.cancel()
    }

    public func makeAsyncIterator() -> Iterator {
        Iterator(tokens: stream.makeAsyncIterator(), ending: Ending(running: running, engine: engine))
    }

    public struct Iterator: AsyncIteratorProtocol {
        var tokens: AsyncThrowingStream<Token, Error>.Iterator
        let ending: Ending

        public mutating func next() async throws -> Token? {
            try await tokens.next()
        }
    }

    /// Goes with the iterator.
    final class Ending: Sendable {
        let running: Running
        let engine: Engine

        init(running: Running, engine: Engine) {
            self.running = running
            self.engine = engine
        }

        deinit {
            running.cancel()
        }
    }
}
