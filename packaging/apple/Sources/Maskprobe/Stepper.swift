import CMaskprobe
import Foundation

/// Makes the steps of one engine in a thread of its own while there are generations, and hands their tokens on.
final class Stepper: @unchecked Sendable { // `condition` guards what changes
    private let engine: OpaquePointer
    private let condition = NSCondition()
    private var running: [Running] = []
    private var isClosed = false
    private var isFreed = false

    /// Takes the engine over.
    init(_ engine: OpaquePointer) {
        self.engine = engine
        let thread = Thread { self.run() }
        thread.name = "maskprobe"
        thread.qualityOfService = .userInitiated
        thread.stackSize = 8 << 20
        thread.start()
    }

    func start(_ options: Options, _ prompt: [Int32]) throws -> (Running, AsyncThrowingStream<Token, Error>) {
        condition.lock()
        defer { condition.unlock() }
        if isClosed {
            throw MaskprobeError(.state, "this engine is closed")
        }
        let handle = try options.open(engine, prompt)
        let (stream, continuation) = AsyncThrowingStream<Token, Error>.makeStream()
        let started = Running(handle, continuation)
        continuation.onTermination = { _ in started.cancel() } // also where the task that waits is cancelled
        running.append(started)
        condition.signal()
        return (started, stream)
    }

    /// Ends all generations as cancelled; the thread frees the engine.
    func close() {
        condition.lock()
        isClosed = true
        running.forEach { $0.cancel() }
        condition.signal()
        condition.unlock()
    }

    func waitUntilFreed() {
        condition.lock()
        while !isFreed {
            condition.wait()
        }
        condition.unlock()
    }

    private func run() {
        while step() {}
        mp_engine_free(engine)
        condition.lock()
        isFreed = true
        condition.broadcast()
        condition.unlock()
    }

    /// False: there is nothing left to do.
    private func step() -> Bool {
        condition.lock()
        while running.isEmpty && !isClosed {
            condition.wait()
        }
        let all = running
        condition.unlock()
        if all.isEmpty {
            return false
        }
        let failure = withPool { () -> MaskprobeError? in
            let status = mp_engine_step(engine, nil)
            return status == MP_OK ? nil : MaskprobeError(status)
        }
        let ended = all.filter { $0.handOn(failure) }
        condition.lock()
        running.removeAll { one in ended.contains { $0 === one } }
        condition.unlock()
        return true
    }
}

/// A thread of one's own has no pool for what Metal's objects leave behind.
private func withPool<Result>(_ body: () -> Result) -> Result {
    #if canImport(ObjectiveC)
    return autoreleasepool(invoking: body)
    #else
    return body()
    #endif
}

/// A generation that goes on, and the stream that its tokens go to.
final class Running: @unchecked Sendable { // `lock` guards what changes; the stepper's thread alone frees the handle
    private let lock = NSLock()
    private var handle: OpaquePointer?
    private var last = mp_stats()
    private let continuation: AsyncThrowingStream<Token, Error>.Continuation

    init(_ handle: OpaquePointer, _ continuation: AsyncThrowingStream<Token, Error>.Continuation) {
        self.handle = handle
        self.continuation = continuation
    }

    /// Sends what there is; true: that was all. A step that failed ends it too.
    func handOn(_ failure: MaskprobeError?) -> Bool {
        var token = mp_token()
        while true {
            let status = mp_generation_next(handle, &token)
            if status == MP_AGAIN {
                break
            }
            if status != MP_OK {
                end(MaskprobeError(status))
                return true
            }
            continuation.yield(Token(token))
            if token.finish != MP_FINISH_NONE {
                end(nil)
                return true
            }
        }
        if let failure {
            end(failure)
        }
        return failure != nil
    }

    private func end(_ failure: MaskprobeError?) {
        lock.lock()
        mp_generation_get_stats(handle, &last)
        mp_generation_free(handle)
        handle = nil
        lock.unlock()
        continuation.finish(throwing: failure)
    }

    /// From any thread, also after its end.
    func cancel() {
        lock.lock()
        if let handle {
            mp_generation_cancel(handle)
        }
        lock.unlock()
    }

    var stats: Stats {
        lock.lock()
        defer { lock.unlock() }
        if let handle {
            mp_generation_get_stats(handle, &last)
        }
        return Stats(last)
    }
}
