UPDATE {meta} SET channel = {channel_literal} WHERE channel <> {channel_literal};
