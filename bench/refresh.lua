-- Posts the refresh tokens of sessions, each once (refreshTokenOf in accounts.ts). Of which session the first one is, is told
-- after the double dash.
local headers, n = { ["Content-Type"] = "application/json" }, 0

function init(arguments)
  n = tonumber(arguments[1]) - 1
end

function request()
  n = n + 1
  return wrk.format("POST", nil, headers, string.format('{"refresh_token":"%043d"}', n))
end
