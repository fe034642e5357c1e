// A conversation in the terminal:  maskprobe-chat model.gguf
// Ctrl-C ends an answer, Ctrl-D the program.
import Foundation
import Maskprobe

/// The generation that Ctrl-C ends.
final class Current: @unchecked Sendable {
    private let lock = NSLock()
    private var generation: Generation?

    func set(_ generation: Generation?) {
        lock.lock()
        self.generation = generation
        lock.unlock()
    }

    func cancel() {
        lock.lock()
        generation?.cancel()
        lock.unlock()
    }
}

@main
struct Chat {
    static func main() async {
        guard CommandLine.arguments.count == 2 else {
            say("usage: maskprobe-chat model.gguf\n", to: .standardError)
            exit(2)
        }
        let current = Current()
        signal(SIGINT, SIG_IGN)
        let interrupts = DispatchSource.makeSignalSource(signal: SIGINT, queue: .global())
        interrupts.setEventHandler { current.cancel() }
        interrupts.resume()
        do {
            let model = try Model(path: CommandLine.arguments[1])
            say("\(model.description), kernels: \(model.kernels) (\(model.kernelsReason))\n", to: .standardError)
            try await converse(try Engine(model, state: ""), current)
        } catch {
            say("error: \(error.localizedDescription)\n", to: .standardError)
            exit(1)
        }
    }

    static func converse(_ engine: Engine, _ current: Current) async throws {
        var messages: [Message] = []
        while true {
            say("> ", to: .standardOutput)
            guard let line = readLine() else {
                return
            }
            messages.append(Message(role: "user", content: line))
            let generation = try engine.chat(messages, Options(maxTokens: 1024))
            current.set(generation)
            var answer = ""
            for try await piece in generation.text {
                say(piece, to: .standardOutput)
                answer += piece
            }
            current.set(nil)
            messages.append(Message(role: "assistant", content: answer))
            let stats = generation.stats
            let rate = stats.passes > 0 ? Double(stats.tokens - 1) / Double(stats.passes) : 0
            say(String(format: "\n[%d tokens, %.2f per pass]\n", stats.tokens, rate), to: .standardError)
        }
    }

    static func say(_ text: String, to file: FileHandle) {
        file.write(Data(text.utf8))
    }
}
