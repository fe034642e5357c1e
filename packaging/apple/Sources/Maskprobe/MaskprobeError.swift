import CMaskprobe
import Foundation

/// What the library says went wrong, in one line that names what to do.
public struct MaskprobeError: LocalizedError, CustomStringConvertible, Sendable {
    /// As in maskprobe.h.
    public enum Kind: Int, Sendable {
        case argument = 1, file, format, unsupported, memory, contextFull, cancelled, decode, numeric, busy, state
        case internalFailure, callback
    }

    public let kind: Kind
    public let description: String
    public var errorDescription: String? { description }

    init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }

    /// Of the call that has just failed in this thread.
    init(_ status: mp_status) {
        self.init(Kind(rawValue: Int(status.rawValue)) ?? .internalFailure, String(cString: mp_last_error()))
    }
}

func check(_ status: mp_status) throws {
    if status != MP_OK {
        throw MaskprobeError(status)
    }
}
