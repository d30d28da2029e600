-- Sends the tokens of a file one after the other, over all connections together. From which on, and how long each connection
-- thinks between two requests (milliseconds, on average), is told after the double dash.
local requests, at, pause = {}, 0, 0

function init(arguments)
  for token in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format(nil, nil, { Authorization = "Bearer " .. token })
  end
  at = tonumber(arguments[2]) % #requests
  pause = tonumber(arguments[3])
  if pause > 0 then
    function delay()
      return math.random(0, 2 * pause)
    end
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
